# Targets around Docker, included by the Makefile. Without any argument `make` stops, builds and runs the container.
#   make GPUS=all|none|2|'"device=1,2"'      make run COMMAND="dvc repro"      make exec COMMAND="nvidia-smi"
DOCKER ?= docker
IMAGE ?= sensorium
CONTAINER ?= sensorium
GPUS ?= all
COMMAND ?= bash
BASE ?= docker.io/library/python:3.11-slim-bookworm
ENV_FILE ?= docker/.env
COMPOSE = $(DOCKER) compose --file docker/compose.yaml --env-file '$(ENV_FILE)'

gpu_devices = $(patsubst "device=%",%,$(filter "device=%,$(GPUS)))
gpu_flag = $(if $(filter none,$(GPUS)),,--gpus '$(GPUS)')
gpu_file = $(if $(filter none,$(GPUS)),,--file docker/compose.gpu.yaml)
gpu_choice = $(if $(gpu_devices),--env CUDA_VISIBLE_DEVICES=$(gpu_devices))

.PHONY: all build run stop logs exec attach secrets services services-run services-stop

all: ## stop, build and run the container; without a Docker engine, this list
	@if $(DOCKER) info >/dev/null 2>&1; then \
	  $(MAKE) --no-print-directory stop build run; \
	else \
	  echo "No Docker engine answers on this machine. 'make demo' needs none; all targets:"; \
	  $(MAKE) --no-print-directory help; \
	fi

build: ## build the trainer's image
	$(DOCKER) build --file docker/Dockerfile --target trainer --tag '$(IMAGE)' --build-arg 'BASE=$(BASE)' \
	  $(if $(PIP_EXTRA_INDEX_URL),--build-arg 'PIP_EXTRA_INDEX_URL=$(PIP_EXTRA_INDEX_URL)') .

run: ## start the container in the background: GPUS=all|none|2|'"device=1,2"' COMMAND=bash
	@$(DOCKER) run --detach --interactive --tty --rm --init --name '$(CONTAINER)' $(gpu_flag) \
	  --shm-size 8g --user "$$(id -u):$$(id -g)" --volume '$(CURDIR):/app' '$(IMAGE)' $(COMMAND) || { \
	  echo "The container did not start. Without a GPU or the NVIDIA container toolkit: make run GPUS=none" >&2; \
	  exit 1; }

stop: ## stop the container
	-@$(DOCKER) stop '$(CONTAINER)' 2>/dev/null || true

logs: ## follow what the container prints
	$(DOCKER) logs --follow '$(CONTAINER)'

exec: ## run COMMAND (default: bash) in the running container
	$(DOCKER) exec --interactive --tty '$(CONTAINER)' $(COMMAND)

attach: ## attach to the running container; leave it with Ctrl-P Ctrl-Q
	$(DOCKER) attach '$(CONTAINER)'

secrets: ## write docker/.env with fresh passwords for the services
	@docker/make-secrets '$(ENV_FILE)'

services: secrets ## start PostgreSQL, the S3 store and MLflow's server
	$(COMPOSE) up --detach --build --wait

services-run: secrets ## run COMMAND in a trainer that logs to those services; GPUS= as above
	GPU_COUNT=$(if $(gpu_devices),all,$(GPUS)) $(COMPOSE) $(gpu_file) --profile trainer \
	  run --build --rm $(gpu_choice) trainer $(COMMAND)

services-stop: ## stop them; their volumes stay
	$(COMPOSE) --profile trainer down
