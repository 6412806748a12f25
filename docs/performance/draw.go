// Command performance draws the pictures of docs/performance.md from the results beside it: `go run ./docs/performance`.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const dir = "docs/performance"

func main() {
	for name, draw := range map[string]func() (string, error){
		"message.svg": message, "hops.svg": hops, "ladder.svg": ladder,
	} {
		picture, err := draw()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(picture), 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
	}
}

// The part of a report of -load -json that is drawn.
type report struct {
	PerSecond int `json:"per_second"`
	Sides     []struct {
		Side     string
		Answered int
		Latency  struct{ P50, P99 float64 } `json:"latency_ms"`

		Processes []struct {
			Name string
			CPU  float64 `json:"cpu_seconds"`
		}
	}
}

func reports(name string) (all []report, err error) {
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(content) {
		var r report
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	all = slices.Sorted(slices.Values(all))
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// message draws what each step of tracing adds to the CPU time of one message.
func message() (string, error) {
	file, err := os.Open(filepath.Join(dir, "bench.txt"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	times := map[string][]float64{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if i := slices.Index(fields, "cpu-ns/op"); i > 0 && strings.HasPrefix(fields[0], "BenchmarkMessage/") {
			ns, err := strconv.ParseFloat(fields[i-1], 64)
			if err != nil {
				return "", err
			}
			times[fields[0]] = append(times[fields[0]], ns)
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	time := func(publishers int, redisotel bool, way string) float64 {
		prefix := fmt.Sprintf("BenchmarkMessage/publishers=%d/redisotel=%t/tracing=%s", publishers, redisotel, way)
		for name, all := range times {
			if name == prefix || strings.HasPrefix(name, prefix+"-") {
				return median(all)
			}
		}
		return math.NaN()
	}
	c := chart{title: "CPU time for one message, publish and process, over tracing off", height: 90 + 10*30}
	top := 0.0
	ways := []string{"off", "unsampled", "recorded", "batched", "exported"}
	for _, publishers := range []int{1, 16} {
		for _, way := range ways {
			top = max(top, time(publishers, true, way)/time(publishers, true, "off"))
		}
	}
	y := 64.0
	for i, publishers := range []int{1, 16} {
		c.text(16, y, "", []string{"1 publisher", "16 publishers"}[i])
		y += 12
		for _, way := range ways {
			ratio := time(publishers, true, way) / time(publishers, true, "off")
			c.text(150, y+14, "end", way)
			c.bar(160, y, 400*ratio/top, 18, i)
			c.text(166+400*ratio/top, y+14, "", fmt.Sprintf("%.2f", ratio))
			y += 24
		}
		y += 28
	}
	return c.svg(), nil
}

// hops draws the CPU time of a request by process, with one hop less each time.
func hops() (string, error) {
	c := chart{title: "CPU time for one request, in ms: 200 a second, median of the rounds", height: 300}
	names := []string{"server", "worker", "otel-agent", "otel-collector"}
	type row struct {
		label string
		parts []float64
	}
	var rows []row
	top := 0.0
	for i, file := range []string{"hops-agent-and-collector.json", "hops-collector.json", "hops-none.json"} {
		all, err := reports(file)
		if err != nil {
			return "", err
		}
		for side, label := range []string{"untraced", []string{"agent, collector", "collector", "neither"}[i]} {
			if side == 0 && i > 0 {
				continue
			}
			one := row{label: label}
			sum := 0.0
			for _, name := range names {
				var values []float64
				for _, r := range all {
					for _, p := range r.Sides[side].Processes {
						if p.Name == name {
							values = append(values, 1000*p.CPU/float64(r.Sides[side].Answered))
						}
					}
				}
				value := 0.0
				if len(values) > 0 {
					value = median(values)
				}
				one.parts = append(one.parts, value)
				sum += value
			}
			top = max(top, sum)
			rows = append(rows, one)
		}
	}
	for i, name := range names {
		x := 160 + 110*float64(i)
		c.bar(x, 48, 14, 14, i)
		c.text(x+20, 60, "", name)
	}
	y := 86.0
	for _, one := range rows {
		c.text(150, y+19, "end", one.label)
		x, sum := 160.0, 0.0
		for i, part := range one.parts {
			c.bar(x, y, 400*part/top, 28, i)
			x += 400 * part / top
			sum += part
		}
		c.text(x+6, y+19, "", fmt.Sprintf("%.2f", sum))
		y += 48
	}
	return c.svg(), nil
}

// ladder draws the latency as the rate grows, both on logarithmic scales.
func ladder() (string, error) {
	all, err := reports("ladder.json")
	if err != nil {
		return "", err
	}
	c := chart{title: "Latency of a request as the rate grows", height: 400}
	const left, right, top, bottom = 80.0, 600.0, 84.0, 340.0
	lowest, highest := 1.0, 1.0
	for _, r := range all {
		for _, s := range r.Sides {
			lowest, highest = min(lowest, s.Latency.P50), max(highest, s.Latency.P99)
		}
	}
	lowest, highest = math.Floor(math.Log10(lowest)), math.Ceil(math.Log10(highest))
	x := func(rate int) float64 {
		first, last := math.Log2(float64(all[0].PerSecond)), math.Log2(float64(all[len(all)-1].PerSecond))
		return left + (right-left)*(math.Log2(float64(rate))-first)/max(last-first, 1)
	}
	y := func(ms float64) float64 { return bottom - (bottom-top)*(math.Log10(ms)-lowest)/(highest-lowest) }
	for power := lowest; power <= highest; power++ {
		c.line("grid", "", left, y(math.Pow(10, power)), right, y(math.Pow(10, power)))
		c.text(left-8, y(math.Pow(10, power))+5, "end", fmt.Sprintf("%g ms", math.Pow(10, power)))
	}
	for _, r := range all {
		c.text(x(r.PerSecond), bottom+22, "middle", strconv.Itoa(r.PerSecond))
	}
	c.text((left+right)/2, bottom+46, "middle", "requests a second")
	for i, side := range []string{"untraced", "traced"} {
		for j, which := range []string{"p50", "p99"} {
			dash := []string{"", "6 4"}[j]
			lx := 80 + 140*float64(2*i+j)
			c.line("c"+strconv.Itoa(i), dash, lx, 56, lx+30, 56)
			c.text(lx+38, 61, "", side+" "+which)
			var lastX, lastY float64
			for _, r := range all {
				for _, s := range r.Sides {
					if s.Side != side {
						continue
					}
					at := []float64{s.Latency.P50, s.Latency.P99}[j]
					if lastX > 0 {
						c.line("c"+strconv.Itoa(i), dash, lastX, lastY, x(r.PerSecond), y(at))
					}
					lastX, lastY = x(r.PerSecond), y(at)
					fmt.Fprintf(&c.body, `<circle class="f%d" cx="%.1f" cy="%.1f" r="3.5"/>`+"\n", i, lastX, lastY)
				}
			}
		}
	}
	return c.svg(), nil
}

// chart is a picture that is 640 wide.
type chart struct {
	title  string
	height int
	body   strings.Builder
}

func (c *chart) text(x, y float64, anchor, text string) {
	if anchor != "" {
		anchor = ` text-anchor="` + anchor + `"`
	}
	fmt.Fprintf(&c.body, `<text x="%.1f" y="%.1f"%s>%s</text>`+"\n", x, y, anchor, text)
}

func (c *chart) bar(x, y, width, height float64, color int) {
	fmt.Fprintf(&c.body, `<rect class="f%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`+"\n", color, x, y, width, height)
}

func (c *chart) line(class, dash string, x1, y1, x2, y2 float64) {
	if dash != "" {
		dash = ` stroke-dasharray="` + dash + `"`
	}
	fmt.Fprintf(&c.body, `<line class="%s"%s x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", class, dash, x1, y1, x2, y2)
}

// The colours are in the picture, light and dark, as a page that shows it by <img> can't style it.
func (c *chart) svg() string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 %d" width="640" height="%d" role="img">
<title>%s</title>
<style>
text { font: 14px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.f0 { fill: #0969da } .f1 { fill: #bc4c00 } .f2 { fill: #8250df } .f3 { fill: #1a7f37 }
.c0 { stroke: #0969da; stroke-width: 2 } .c1 { stroke: #bc4c00; stroke-width: 2 } .grid { stroke: #d1d9e0 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .f0 { fill: #4493f8 } .f1 { fill: #db6d28 } .f2 { fill: #ab7df8 } .f3 { fill: #3fb950 }
  .c0 { stroke: #4493f8 } .c1 { stroke: #db6d28 } .grid { stroke: #3d444d }
}
</style>
<text class="title" x="16" y="28">%s</text>
%s</svg>
`, c.height, c.height, c.title, c.title, c.body.String())
}
