# make train:   install into .venv, train the main model on digits that need no download, print where the results are
# make test:    install into .venv, run the tests
# make lint:    check style, format and types
# make bench:   measure speed and write docs/benchmarks.md
# make gallery: train every model that README and docs show, and make their pictures and tables again; about eleven
#   hours on two idle cores. It continues where it stopped. A part of it: make gallery entries=ogan_mnist5k; a list of
#   what it would do: make gallery entries=--list
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install train test lint bench gallery clean

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "genlab needs Python 3.11, 3.12 or 3.13, and %s is %d.%d: make PYTHON=python3.12 ..." % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[demo,fid,tensorboard,test]'
	@touch $@

install: $(VENV)/installed

# With bf16 where the CPU has instructions for it: equally good, and faster.
train: install
	$(BIN)/genlab train experiment=ogan_mnist5k $$($(BIN)/python -c \
	  "import torch; torch.cpu._is_avx512_bf16_supported() and print('trainer.precision=bf16-mixed')")

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/all.py docs/benchmarks

gallery: install
	$(BIN)/python benchmarks/gallery.py $(entries)

clean:
	rm -rf build dist *.egg-info
