package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// tutorial are the six files that the README has you read, in its order.
var tutorial = []string{
	"cmd/client/client.go", "cmd/server/server.go", "pkg/message.go", "cmd/worker/worker.go", "pkg/broker.go", "pkg/tracer.go",
}

// The tutorial is short, and about a third of it is comments.
func TestTheTutorialIsShortAndCommented(t *testing.T) {
	lines, comments := 0, 0
	for _, file := range tutorial {
		l, c := count(t, file)
		lines, comments = lines+l, comments+c
	}
	if lines > 650 {
		t.Errorf("the six files have %d non-blank lines, want at most 650", lines)
	}
	if share := 100 * float64(comments) / float64(lines); share < 25 || share > 35 {
		t.Errorf("%.1f %% of the six files' lines are comments, want 25 to 35", share)
	}

	all := 0
	for _, folder := range []string{"cmd", "pkg"} {
		err := filepath.WalkDir(filepath.Join(projectRoot(t), folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			name, err := filepath.Rel(projectRoot(t), path)
			l, _ := count(t, name)
			all += l
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if all > 1375 {
		t.Errorf("cmd and pkg have %d non-blank lines without tests, want at most 1375", all)
	}
}

// count counts the non-blank lines of a file, and its comments. None may be wider than 120.
func count(t *testing.T, file string) (lines, comments int) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(projectRoot(t), filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if width := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")); width > 120 {
			t.Errorf("%s:%d: %d columns, want at most 120", file, number, width)
		}
		line = strings.TrimSpace(line)
		if line != "" {
			lines++
		}
		if strings.HasPrefix(line, "//") {
			comments++
		}
	}
	return lines, comments
}
