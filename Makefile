# `make test` and `make demo` set up all they need on a Debian-like machine, and only what is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
INSTALLED := $(VENV)/.installed

# Where QEMU 11.1 cannot be had, its tests are left out, with a line that says so; in CI they run, and fail.
LAB := $(if $(filter true 1,$(CI)),required,$(or $(QMPGUARD_LAB),optional))

.DEFAULT_GOAL := help
.PHONY: help setup packages test-packages lab check test replay image-test systemd-lab libvirt-lab vfio-lab matrix docs-run package-test wheels install uninstall page-test pictures examples-test fuzz conformance soak churn hostile game chaos model mutants peers docs demo clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) lab test-packages ## get everything that the tests need

# Debian packages, each as COMMAND:PACKAGE; without a missing one neither root nor apt is asked for anything.
define debian
	@missing=; for each in $(1); do command -v "$${each%%:*}" >/dev/null || missing="$$missing $${each##*:}"; done; \
	$(2) \
	[ "$$missing" ] || exit 0; \
	as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	for tool in apt-get $$as_root; do \
	  command -v $$tool >/dev/null || { echo "make: missing:$$missing (no $$tool here to install them)" >&2; exit 1; }; \
	done; \
	echo "installing$$missing"; \
	install="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing"; \
	$$install >/dev/null 2>&1 || { $$as_root apt-get update -qq && $$install >/dev/null; } || \
	  { echo "make: could not install:$$missing" >&2; exit 1; }
endef

packages:
	$(call debian,qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap socat:socat,\
	  [ -x $(BIN)/pip ] || $(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv";)

test-packages: packages
	$(call debian,systemd-socket-activate:systemd groff:groff-base zsh:zsh fish:fish,\
	  [ -x /bin/kill ] || missing="$$missing procps";)

# What runs, and what tests: the demo waits for the first only.
$(RUNS): pyproject.toml | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is not Python 3.11 or later: make PYTHON=..." >&2; exit 1; }
	@echo "installing Python packages into $(VENV)"
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(INSTALLED): $(RUNS)
	@echo "installing what the tests need into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

lab: $(RUNS) | packages ## get QEMU 11.1 with vfio-user-pci into the user's cache
	@$(BIN)/python -m qmpguard.demo.lab fetch

check: $(INSTALLED) ## ruff, mypy, import-linter
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@out=$$($(BIN)/lint-imports 2>&1) || { echo "$$out"; exit 1; }
	@echo "ruff, mypy, import-linter: all is well"

# A test that needs what this machine lacks is left out, with a line that says so; in CI it runs, and fails with that line.
# The two pure layers are covered by their own tests; the others run without coverage, which makes them half as fast.
define leave_out
$(BIN)/python -m qmpguard.demo.lab $(1) || [ $(LAB) = required ] || { only="$${only:+$$only and }not $(2)"; \
	  echo "make test: goes on WITHOUT the tests that need $(3) (with CI=true they would fail)"; }
endef
IN_PARALLEL := --numprocesses auto --maxprocesses 8 --dist worksteal

test: $(INSTALLED) | test-packages ## all tests in parallel, with complete branch coverage of wire and policy
	@only=; $(call leave_out,fetch,qemu11,QEMU 11.1); $(call leave_out,userfaultfd,userfaultfd,userfaultfd); \
	echo "make test: takes two to three minutes on two cores"; \
	$(BIN)/pytest --quiet $(IN_PARALLEL) -m "$$only" tests/wire tests/policy --cov=qmpguard.wire --cov=qmpguard.policy \
	  --cov-report= && $(BIN)/coverage report --fail-under=100 && \
	$(BIN)/pytest --quiet $(IN_PARALLEL) -m "$$only" --ignore tests/wire --ignore tests/policy

# the files that `make replay` writes, one for each guard that ran
RECORDINGS := $(CURDIR)/build/recordings

replay: $(INSTALLED) | packages lab ## record every guard of the tests of the proxy and of whole VMs, and judge the recordings again, TESTS=...
	@rm -rf $(RECORDINGS) && mkdir -p $(RECORDINGS)
	@RECORDED=$(RECORDINGS)/guard $(BIN)/python -m pytest --quiet $(IN_PARALLEL) -p tests.support.recorded \
	  $(or $(TESTS),tests/e2e tests/proxy tests/conformance)
	@$(BIN)/qmpguard replay $(RECORDINGS)/guard.*

image-test: $(INSTALLED) | packages ## build the image and guard a QEMU with it, in two minutes; needs root
	$(call debian,buildah:buildah)
	@$(BIN)/pytest --quiet --timeout 900 tests/labs/deploy/image_lab.py

systemd-lab: $(INSTALLED) | packages ## the units under a whole systemd in a small VM, in minutes; needs root once
	$(call debian,/sbin/mke2fs:e2fsprogs)
	@$(BIN)/pytest --quiet --timeout 3600 tests/labs/deploy/systemd_lab.py

libvirt-lab: $(INSTALLED) | packages ## virsh directly and behind the guard, with the libvirt of Debians 12 and 13; needs root
	@$(BIN)/pytest --quiet --timeout 3600 tests/labs/deploy/libvirt_lab.py

vfio-lab: $(INSTALLED) | packages ## what is promised of real vfio-pci devices, on QEMU 10.0 and 11.1 in a Linux guest: docs/vfio-lab.md
	@$(BIN)/python -m tests.labs.vfio $(if $(OPTIONAL),--optional) $(if $(QEMU),--qemu $(QEMU)) $(ROWS)

matrix: $(INSTALLED) | packages ## demo and test in bare Debians 12 and 13, as root and as a user, in half an hour; needs root
	@$(BIN)/python -m tests.labs.deploy.matrix $(SUITES)

docs-run: $(INSTALLED) | packages ## run the commands of README and manuals in a bare Debian, in minutes; needs root
	@$(BIN)/python -m tests.labs.deploy.docs_run

package-test: $(INSTALLED) ## build wheel and source archive, and look whether they are whole and an index would take them
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[package]'
	@$(BIN)/pytest --quiet tests/deploy/test_package.py

# `make install` needs no root to build, and no network to install: `make wheels`, then `sudo make install`. A packager says
# DESTDIR=..., PREFIX=/usr, and PIPFLAGS=--no-deps where the packages that it needs come from elsewhere.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
PIP ?= build/pip/bin/pip
PIPFLAGS ?=
WHEELS := build/wheels/.made
# an environment of its own: neither the distribution's packages nor anybody's PYTHONPATH change what the guard runs with
HOME_OF_IT := $(PREFIX)/lib/qmpguard
override DESTDIR := $(if $(DESTDIR),$(abspath $(DESTDIR)))
AT := $(DESTDIR)$(PREFIX)

build/pip/bin/pip:
	@$(PYTHON) -m venv --clear build/pip

wheels: $(WHEELS) ## build the wheel, and get those that it needs, for `make install`

$(WHEELS): pyproject.toml README.md $(shell find qmpguard -type f -not -name '*.pyc') $(filter build/%,$(PIP))
	@rm -rf build/wheels build/lib build/bdist.* && mkdir -p build/wheels
	@$(PIP) wheel --quiet --disable-pip-version-check --wheel-dir build/wheels $(PIPFLAGS) .
	@touch $@

install: $(WHEELS) ## install below PREFIX=/usr/local, and DESTDIR= for packagers: command, units, manual page, documents
	@umask 022; set -e; \
	$(PYTHON) -m venv --without-pip $(DESTDIR)$(HOME_OF_IT); \
	$(PIP) --python $(DESTDIR)$(HOME_OF_IT)/bin/python install --quiet --disable-pip-version-check --no-compile \
	  --force-reinstall --no-index --find-links build/wheels $(PIPFLAGS) build/wheels/qmpguard-*.whl; \
	cd $(DESTDIR)$(HOME_OF_IT); rm -rf share lib/systemd; find bin -type f -not -name qmpguard -delete; \
	sed -i '1s|^#!.*|#!$(HOME_OF_IT)/bin/python|' bin/qmpguard; sed -i '/^command = /d' pyvenv.cfg; \
	bin/python -m compileall -q $(if $(DESTDIR),-s $(DESTDIR) -p /) lib
	@install -d $(AT)/bin $(DESTDIR)$(SYSCONFDIR)/qmpguard
	@ln -sf ../lib/qmpguard/bin/qmpguard $(AT)/bin/qmpguard
	@set -e; for unit in systemd/*.service systemd/*.socket; do \
	  install -Dm 644 $$unit $(AT)/lib/$$(dirname $$unit)/system/$$(basename $$unit); done
	@sed -i 's|^\(Exec[A-Z][A-Za-z]*=\)qmpguard |\1$(PREFIX)/bin/qmpguard |' $(AT)/lib/systemd/system/qmpguard*.service
	@install -Dm 644 systemd/qmpguard.sysusers $(AT)/lib/sysusers.d/qmpguard.conf
	@install -Dm 644 docs/qmpguard.1 $(AT)/share/man/man1/qmpguard.1
	@install -Dm 644 completions/qmpguard.bash $(AT)/share/bash-completion/completions/qmpguard
	@install -Dm 644 completions/_qmpguard $(AT)/share/zsh/site-functions/_qmpguard
	@install -Dm 644 completions/qmpguard.fish $(AT)/share/fish/vendor_completions.d/qmpguard.fish
	@set -e; for file in *.md LICENSE $$(find docs examples -type f -not -name '*.1' -not -name '*.py[co]'); do \
	  install -Dm 644 $$file $(AT)/share/doc/qmpguard/$$file; done
	@echo "installed below $(AT); now, as root: systemd-sysusers && systemctl daemon-reload"

uninstall: ## remove what `make install` has put there; the configuration stays
	@rm -rf $(DESTDIR)$(HOME_OF_IT) $(AT)/share/doc/qmpguard
	@rm -f $(AT)/bin/qmpguard $(patsubst systemd/%,$(AT)/lib/systemd/system/%,$(wildcard systemd/*.service systemd/*.socket)) \
	  $(AT)/lib/sysusers.d/qmpguard.conf $(AT)/share/man/man1/qmpguard.1 $(AT)/share/bash-completion/completions/qmpguard \
	  $(AT)/share/zsh/site-functions/_qmpguard $(AT)/share/fish/vendor_completions.d/qmpguard.fish

page-test: $(INSTALLED) lab ## drive the live page with a real Chromium before a real QEMU, in a minute
	$(call debian,chromium:chromium)
	@$(BIN)/pytest --quiet tests/labs/page/story_of_a_vm.py

pictures: $(INSTALLED) lab ## take the pictures of the live page anew
	$(call debian,chromium:chromium)
	@mkdir -p docs/images
	@QMPGUARD_PICTURES=docs/images $(BIN)/pytest --quiet tests/labs/page/story_of_a_vm.py

examples-test: $(INSTALLED) ## check the examples with Prometheus' own tool, which Debian has
	$(call debian,promtool:prometheus)
	@$(BIN)/pytest --quiet tests/docs/test_examples.py

fuzz: $(INSTALLED) | packages lab ## play generated scripts to QEMU and to the guard, MINUTES=5
	@$(BIN)/python -m tests.labs.conformance.fuzz $(or $(MINUTES),5)

conformance: $(INSTALLED) | packages lab ## try every client and script on QEMU and on the guard; writes docs/conformance.md
	@$(BIN)/python -m tests.labs.conformance.report

peers: $(INSTALLED) | packages lab ## other people's clients at QEMU and at the guard, with counts
	@$(BIN)/python -m tests.labs.peers

soak: $(INSTALLED) | packages lab ## a guard of 204 VMs under load and random faults, with a plot, MINUTES=60 VMS=200 REAL=4 SEED=...
	@$(BIN)/python -m tests.labs.soak --minutes $(or $(MINUTES),60) --vms $(or $(VMS),200) --real $(or $(REAL),4) \
	  $(if $(SEED),--seed $(SEED))

churn: $(INSTALLED) | packages ## random clients at one VM's guard while QEMU comes and goes, MINUTES=10 CLIENTS=64
	@$(BIN)/python -m tests.labs.soak.churn --minutes $(or $(MINUTES),10) --clients $(or $(CLIENTS),64)

mutants: $(INSTALLED) | packages lab ## which changes of the code do its own tests not notice? SAMPLE=160 (0: all, hours) SEED=1
	@$(BIN)/python -m tests.labs.mutants --sample $(or $(SAMPLE),160) --seed $(or $(SEED),1)

model: $(INSTALLED) ## all orders of events between two clients, the guard's own code and a simulated QEMU, MINUTES=2 each
	@$(BIN)/python -m tests.model --minutes $(or $(MINUTES),2)

hostile: $(INSTALLED) | packages ## hostile clients and hostile QEMUs at a guard, MINUTES=5
	@$(BIN)/python -m tests.labs.hostile --minutes $(or $(MINUTES),5)

game: $(INSTALLED) | packages ## a random game of several clients against the guard's first promise, on each QEMU, ROUNDS=1000 SEED=1
	@$(BIN)/python -m tests.labs.game --rounds $(or $(ROUNDS),1000) --seed $(or $(SEED),1) $(if $(QEMU),--qemu $(QEMU)) \
	  --profile $(or $(PROFILE),standard)

chaos: $(INSTALLED) | packages ## faults of the surroundings: a table of promises, kept or broken, MINUTES=0 for each once, NAME=...
	@$(BIN)/python -m tests.labs.chaos --minutes $(or $(MINUTES),0) $(if $(NAME),"$(NAME)")

docs: $(INSTALLED) ## write the documents that come from the code
	@$(BIN)/python -m qmpguard.admin.metrics > docs/metrics.md
	@$(BIN)/qmpguard rules --markdown > docs/rules.md
	@$(BIN)/python -m qmpguard.manual
	@$(BIN)/qmpguard config schema > examples/qmpguard.schema.json
	@$(BIN)/python -m tests.labs.conformance.report --differences

demo: $(RUNS) | packages ## see what a real QEMU answers with and without the guard; without one, a simulated QEMU
	@$(BIN)/python -m qmpguard.demo.lab fetch || true
	@$(BIN)/qmpguard demo

bench: $(INSTALLED) lab | packages ## measure what the guard costs beside other ways to QEMU: docs/performance.md
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

clean: ## remove what was built here; QEMU 11.1 stays in the user's cache
	@rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find qmpguard tests -name __pycache__ -prune -exec rm -rf {} +
