package e2e

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// runBy names the test that does what a command in the documents does. Commands with only -recipe or -case can be left
// out: TestRecipes and TestCases run each of them. The line needsDocker marks a command that needs Docker.
var runBy = map[string]string{
	"go run -C local .":                                    "TestDemo",
	"go run -C local . -load 200 -for 60s":                 "TestLoadReportsBothSides",
	"go run -C local . -recipe tail-sampling -recipe link": "TestRecipes",
	"curl -i localhost:8080/hello":                         "TestARequestIsOneTrace",
	"curl -i -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' localhost:8080/hello": "TestRecipes",
	"curl -i -H 'traceparent: 00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00' localhost:8080/hello": "TestRecipes",
	"now=$(date +%s)000000": "TestRecipes",
	"curl -H 'b3: 463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1' localhost:8080/hello": "TestRecipes",
	`sed "s/1000000000000000/$now/" recipes/old-formats/span.json | curl --data-binary @- -H 'Content-Type: application/json' ` +
		"localhost:9412/api/v2/spans": "TestRecipes",
	"curl -sG localhost:9090/api/v1/query_exemplars -d start=$(($(date +%s) - 300)) -d end=$(date +%s) " +
		`--data-urlencode 'query=traces_span_metrics_duration_seconds_bucket{span_name="HTTP GET", le="0.25"}'`: "TestRecipes",
	"go test ./... && go test -C local -count=1 ./...":                                             ".ci/run",
	"go test -C local/e2e -count=1 -timeout 40m -long":                                             ".ci/run",
	"go test -C local/e2e -count=1 -run Recipes":                                                   "TestRecipes",
	"go run -C brokers . redisstreams":                                                             "TestEachBroker",
	"mvn -f brokers/server/pom.xml dependency:copy-dependencies -DoutputDirectory=/tmp/kafka/libs": ".ci/run",
	"KAFKA_HOME=/tmp/kafka go test -C brokers -count=1 ./kafka":                                    "TestSuite",
	"redis-cli -p 16379 subscribe work":                                                            "TestTheMessageTellsWhoIsBroken",

	"curl -i -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' localhost:8000/orders/7": "TestThePageOfYourOwnSystem",
	"go get": "TestThePageOfYourOwnSystem", // it compares the versions
	"go test -C local/e2e -count=1 -run Cases":                                                 "TestCases",
	"curl -i -H 'baggage: username=alice' localhost:8080/hello":                                "TestDemo",
	"curl -s -H 'Accept: application/openmetrics-text' localhost:8889/metrics | grep trace_id": "TestCases",
	"go run -C local . -recipe own-program -hops":                                              "TestRecipes",
	"go run ./cmd/client": "TestRecipes",
	"cd recipes/other-language && python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && " +
		".venv/bin/python worker.py": "TestRecipes",
}

const needsDocker, needsKubernetes = "<!-- needs Docker -->", "<!-- needs Kubernetes -->"

// A document is a page for readers.
type document struct {
	path     string // from the root, with slashes
	lines    int
	text     string // without code blocks
	headings []string
	blocks   []block
}

type block struct {
	language, text string
	needsDocker    bool
}

func (d document) isLesson() bool { return regexp.MustCompile(`^(recipes|cases)/`).MatchString(d.path) }

func documents(t *testing.T) []document {
	t.Helper()
	root := projectRoot(t)
	var all []document
	for _, name := range globbed(t, "README.md", "CONTRIBUTING.md", "docs/*.md", "recipes/*.md", "recipes/*/*.md", "cases/*.md", "cases/*/*.md", "kubernetes/*.md", "brokers/*.md", "examples/*.md") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parseDocument(name, string(content)))
	}
	if len(all) == 0 || all[0].path != "README.md" {
		t.Fatal("there is no README.md")
	}
	return all
}

// globbed returns the project's matching files, by their names from the root.
func globbed(t *testing.T, patterns ...string) (names []string) {
	t.Helper()
	for _, pattern := range patterns {
		found, err := fs.Glob(os.DirFS(projectRoot(t)), pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	return names
}

func parseDocument(name, content string) document {
	d := document{path: name}
	var text strings.Builder
	var open *block
	last := ""
	for line := range strings.Lines(content) {
		d.lines++
		language, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			open = &block{language: language, needsDocker: last == needsDocker || last == needsKubernetes}
		case isFence:
			d.blocks = append(d.blocks, *open)
			open = nil
		case open != nil:
			open.text += line
		default:
			text.WriteString(line)
			if heading := regexp.MustCompile(`^#+ (.+)`).FindStringSubmatch(line); heading != nil {
				d.headings = append(d.headings, anchor(heading[1]))
			}
		}
		last = strings.TrimSpace(line)
	}
	d.text = text.String()
	return d
}

// anchor returns the anchor that GitHub makes of a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}

// links returns the document's link targets, including pictures.
func (d document) links() (targets []string) {
	text := regexp.MustCompile("`[^`]*`").ReplaceAllString(d.text, "")
	for _, found := range regexp.MustCompile(`\]\(([^()\s]+)\)|(?:src|srcset|href)="([^"]+)"`).FindAllStringSubmatch(text, -1) {
		targets = append(targets, found[1]+found[2])
	}
	return targets
}

func TestLinksLeadSomewhere(t *testing.T) {
	all := documents(t)
	for _, d := range all {
		for _, link := range d.links() {
			if strings.Contains(link, "://") {
				if !strings.HasPrefix(link, "https://") && !strings.HasPrefix(link, "http://localhost:") {
					t.Errorf("%s: %s: want https", d.path, link)
				}
				continue
			}
			target, fragment, _ := strings.Cut(link, "#")
			name := d.path
			if target != "" {
				name = path.Join(path.Dir(d.path), target)
			}
			if _, err := os.Stat(filepath.Join(projectRoot(t), filepath.FromSlash(name))); err != nil || strings.HasPrefix(name, "..") {
				t.Errorf("%s: %s: there is no such file in the project", d.path, link)
				continue
			}
			if fragment == "" || lineOfCode.MatchString(fragment) {
				continue // TestTheTableOfSpansLeadsToTheirLines checks lines of code
			}
			i := slices.IndexFunc(all, func(other document) bool { return other.path == name })
			if i < 0 || !slices.Contains(all[i].headings, fragment) {
				t.Errorf("%s: %s: there is no such heading", d.path, link)
			}
		}
	}
}

var lineOfCode = regexp.MustCompile(`^L\d+$`)

// For each span of a request, the README names the line that makes it.
func TestTheTableOfSpansLeadsToTheirLines(t *testing.T) {
	readme := documents(t)[0]
	for span, want := range map[string]string{
		"make request":   `tracer.Start(ctx, "make request")`,
		"HTTP GET":       "otelhttp.NewTransport(",
		"GET /hello":     "otelhttp.NewHandler(",
		"handle request": `tracer.Start(ctx, "handle request")`,
		"publish work":   `tracer.Start(ctx, "publish "`,
		"publish":        "redisotel.InstrumentTracing(",
		"process work":   `tracer.Start(ctx, "process "+channel, options...)`,
	} {
		row := regexp.MustCompile("(?m)^\\| `" + span + `. \| \[[^\]]+\]\(([^#)]+)#L(\d+)\) \|`).FindStringSubmatch(readme.text)
		if row == nil {
			t.Errorf("README.md's table has no row for %s that leads to a line", span)
			continue
		}
		code, err := os.ReadFile(filepath.Join(projectRoot(t), filepath.FromSlash(row[1])))
		if err != nil {
			t.Error(err)
			continue
		}
		number, lines := 0, strings.Split(string(code), "\n")
		for i, line := range lines {
			if strings.Contains(line, want) {
				number = i + 1
			}
		}
		if strconv.Itoa(number) != row[2] {
			t.Errorf("README.md: %s: the link is to line %s of %s, want %d", span, row[2], row[1], number)
		}
	}
}

func TestPicturesAreSmallAndShown(t *testing.T) {
	root := projectRoot(t)
	var shown []string
	for _, d := range documents(t) {
		for _, link := range d.links() {
			shown = append(shown, path.Join(path.Dir(d.path), link))
		}
	}
	pictures := globbed(t, "docs/*.png", "docs/*.svg", "cases/*.png", "cases/*/*.png", "recipes/*/*.png")
	if len(pictures) == 0 {
		t.Error("there is no picture")
	}
	for _, name := range pictures {
		if !slices.Contains(shown, name) {
			t.Errorf("%s: no document shows it", name)
		}
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 300_000 {
			t.Errorf("%s has %d bytes, want at most 300 kB", name, info.Size())
		}
	}
}

// Each tree in a document is a file that a test compares with what the demo does: docs/trace.txt in TestDemo, those of
// the recipes and cases in TestRecipes and TestCases.
func TestTreesAreThoseThatTheTestsCompare(t *testing.T) {
	root := projectRoot(t)
	isTree := regexp.MustCompile(`^\d+(-\d+)? traces?\n`)
	for _, d := range documents(t) {
		pattern := "docs/trace.txt"
		if d.isLesson() {
			pattern = path.Dir(d.path) + "/trace*.txt"
		}
		files := globbed(t, pattern)
		for _, b := range d.blocks {
			if !isTree.MatchString(b.text) {
				continue
			}
			if !slices.ContainsFunc(files, func(file string) bool {
				want, err := os.ReadFile(filepath.Join(root, file))
				return err == nil && string(want) == b.text
			}) {
				t.Errorf("%s: this tree is not in %s:\n%s", d.path, pattern, b.text)
			}
		}
	}
}

func TestEveryCommandOfTheDocumentsIsRunOrNeedsDocker(t *testing.T) {
	unused := map[string]bool{}
	for command := range runBy {
		unused[command] = true
	}
	for _, d := range documents(t) {
		for _, command := range d.commands(t) {
			if strings.HasPrefix(command, "go get ") {
				command = "go get"
			}
			delete(unused, command)
			if args, ok := strings.CutPrefix(command, "go run -C local ."); ok {
				// With -h it only parses the flags before it, and starts nothing.
				flags := strings.Fields(args)
				cmd := exec.Command(binary(t, "local"), append(flags, "-h")...)
				cmd.Dir = projectRoot(t)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v %s", d.path, command, err, out)
				}
				name := strings.Join(flags[min(1, len(flags)):], " ")
				if len(flags) == 2 && flags[0] == "-recipe" && "recipes/"+name != backendsElsewhere {
					continue // TestRecipes runs it
				}
				if fixed, ok := strings.CutSuffix(name, "/fixed.yml"); len(flags) > 1 && flags[0] == "-case" &&
					(len(flags) == 2 || ok && fixed == flags[1]+" -f cases/"+flags[1]) {
					continue // TestCases runs it
				}
			}
			if runBy[command] == "" {
				t.Errorf("%s: %s: no test runs it. Name the test in runBy, or put %q before the block", d.path, command, needsDocker)
			}
		}
	}
	for command := range unused {
		t.Errorf("runBy: %s: no document has it anymore", command)
	}
}

// continued is the end of a line that continues on the next.
var continued = regexp.MustCompile(`(?: \\|( \|))\n +`)

// commands returns the document's commands that need no Docker. Those that do need it must name files that exist.
func (d document) commands(t *testing.T) (commands []string) {
	t.Helper()
	for _, b := range d.blocks {
		if slices.Contains([]string{"bash", "shell", "console", "shell-session"}, b.language) {
			t.Errorf("%s: a block of %s: want sh, for this test to find it", d.path, b.language)
		}
		if b.language != "sh" {
			continue
		}
		for line := range strings.Lines(continued.ReplaceAllString(b.text, "$1 ")) {
			command, _, _ := strings.Cut(line, " # ")
			command = strings.TrimSpace(command)
			if command == "" || strings.HasPrefix(command, "#") {
				continue
			}
			words := strings.Fields(command)
			for i, word := range words[1:] {
				if words[i] == "-f" && word != "-" { // - is standard input
					if _, err := os.Stat(filepath.Join(projectRoot(t), word)); err != nil {
						t.Errorf("%s: %s: %v", d.path, command, err)
					}
				}
				if name, ok := strings.CutPrefix(word, "-"); ok && words[0] == "go" && words[1] == "test" &&
					!strings.HasPrefix(word, "-C") && flag.Lookup(name) == nil && flag.Lookup("test."+strings.Split(name, "=")[0]) == nil {
					t.Errorf("%s: %s: there is no flag %s", d.path, command, word)
				}
			}
			if !b.needsDocker {
				commands = append(commands, command)
			}
		}
	}
	for _, found := range regexp.MustCompile(`(?m)^    (go .*)$`).FindAllStringSubmatch(d.text, -1) {
		commands = append(commands, found[1])
	}
	return commands
}

func TestTheTestsThatTheTableNamesExist(t *testing.T) {
	root := projectRoot(t)
	var code strings.Builder
	for _, name := range globbed(t, "*_test.go", "*/*_test.go", "*/*/*_test.go") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		code.Write(content)
	}
	for _, d := range documents(t) {
		for _, test := range regexp.MustCompile("`(Test[A-Z]\\w*)`").FindAllStringSubmatch(d.text, -1) {
			if !strings.Contains(code.String(), "\nfunc "+test[1]+"(t *testing.T) {") {
				t.Errorf("%s: there is no %s", d.path, test[1])
			}
		}
	}
	ci, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	for command, test := range runBy {
		if test == ".ci/run" {
			// .ci/run takes the test command from the README. Others are in it, perhaps with one more flag.
			words := strings.Fields(command)
			if !strings.Contains(string(ci), words[len(words)-1]+"\n") && !strings.Contains(command, "&&") {
				t.Errorf("%s: .ci/run does not run it", command)
			}
		} else if !strings.Contains(code.String(), "\nfunc "+test+"(t *testing.T) {") {
			t.Errorf("%s: there is no %s", command, test)
		}
	}
}

func TestREADMEHasOneTestCommandAnd400LinesAtMost(t *testing.T) {
	readme := documents(t)[0]
	if readme.lines > 400 {
		t.Errorf("README.md has %d lines, want at most 400", readme.lines)
	}
	_, development, _ := strings.Cut(readme.text, "\n## Development\n")
	if found := regexp.MustCompile(`(?m)^    go test `).FindAllString(development, -1); len(found) != 1 {
		t.Errorf("README.md names %d test commands under Development, want one, as .ci/run and CI take it from there", len(found))
	}
}
