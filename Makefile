# Everything starts from python3 and make. `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
ENGINES ?= .engines
BEAM := 2.77.0
FLINK := 2.2

.DEFAULT_GOAL := help
.PHONY: help setup lint format test engines engine-flink test-engines demo demo-train bench bench-gpu bench-full lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make the virtual environment from the lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is wanted, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lint: setup ## check style, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## run the tests; OVSEG_TEST_DATA names the folder of real data
	$(BIN)/python -m pytest -m "not engines"

engines: $(ENGINES)/prism-$(BEAM) ## build Prism, Beam's engine in Go, into .engines; needs go

$(ENGINES)/prism-$(BEAM):
	@command -v go > /dev/null || { echo "go is not installed; Prism is built from its Go module" >&2; exit 1; }
	GOBIN=$(abspath $(ENGINES)) go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM)
	mv $(ENGINES)/prism $@

engine-flink: ## fetch Flink's job server, the engine inside it, into .engines; needs mvn and Java 17
	mvn -q -B --strict-checksums org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
	    -Dartifact=org.apache.beam:beam-runners-flink-$(FLINK)-job-server:$(BEAM) -DoutputDirectory=$(abspath $(ENGINES))

test-engines: setup ## the same corpus on every engine that is there, part hash by part hash
	$(BIN)/python -m pytest -m engines tests/test_engines.py

demo: setup ## draw 200 scenes, mine them with the CLIP that ships with the project, judge the pairs by the truth
	$(BIN)/ovseg draw-scenes --output $(DEMO)/scenes --scenes 200
	$(BIN)/ovseg mine --captions $(DEMO)/scenes/captions.json --images $(DEMO)/scenes/images --output $(DEMO)/run \
	    --nouns lexicon --masks felzenszwalb --mask-option min_area_fraction=0.01 --clip scenes
	$(BIN)/ovseg judge --output $(DEMO)/run --truth $(DEMO)/scenes

demo-train: demo ## go on with the demo: finetune that CLIP on its pairs, accuracy before and after, a picture
	$(BIN)/ovseg finetune --pairs $(DEMO)/run --output $(DEMO)/adapted --mode full-then-prompt \
	    --where "not abstract and not generic" --epochs 4 --batch 64 --warmup 20 --workers 0 \
	    --full-learning-rate 3e-4 --prompt-learning-rate 1e-2 --eval-set scenes --eval-images 200

bench: setup ## mining's speed beside what one would write without it; OVSEG_TEST_DATA names the folder of captions
	$(BIN)/python -m benchmarks.speed --output docs/speed.md $(if $(OVSEG_TEST_DATA),--data $(OVSEG_TEST_DATA))

bench-gpu: setup ## what this machine's GPU does: SAM's seconds an image, CLIP's regions a second, host cores for it
	$(BIN)/python -m benchmarks.device_rates --device cuda --output docs/device_rates.md

bench-full: setup ## the same at full size, and time and memory against corpus size: hours
	$(BIN)/python -m benchmarks.speed --full --output docs/speed.md $(if $(OVSEG_TEST_DATA),--data $(OVSEG_TEST_DATA))
	$(BIN)/python -m benchmarks.scaling --output docs/scaling.md

lock: ## resolve pyproject.toml again into requirements.lock, and the image's lock by it
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-annotate --no-header --extra dev --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-annotate --no-header --extra gcp --extra maskformer \
	    --constraint requirements.lock --output-file containers/requirements.lock pyproject.toml

clean: ## remove the environment, the engines and the demo
	rm -rf $(VENV) $(DEMO) $(ENGINES)
