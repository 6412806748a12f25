# `make` lists what you can run here. Each is a script or a command that also works without make.
.PHONY: help test check long compose draw pictures measure

help: ## list these
	@sed -n 's/^\([a-z]*\):[^#]*## /\1	/p' Makefile | expand -t 10

test: ## the README's test command: needs only Go
	.ci/run readme

check: ## all that CI runs, with real brokers: half an hour; run it in a clean clone
	.ci/run

long: ## only the slow tests
	go test -C local/e2e -count=1 -timeout 40m -long

compose: ## the demo, the recipes and the cases on Docker
	go test -C local/e2e -count=1 -timeout 60m -run 'Compose|OnEngine' -compose

draw: ## docs/*.svg from docs/*.dot, with Graphviz
	docs/draw

pictures: ## all screenshots, with Chromium: docs/pictures says what each part needs
	docs/pictures local
	docs/pictures docker
	docs/pictures cases
	docs/pictures language
	docs/pictures metrics

measure: ## docs/performance.md's figures and pictures: 15 minutes on an idle machine
	docs/performance/measure
	docs/performance/draw
