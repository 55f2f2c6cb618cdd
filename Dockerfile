# syntax=docker/dockerfile:1

# Training and evaluation in containers. Data and outputs are mounted, recipes are inside; arguments are those
# of the commands:
#
#   docker build --target train -t arxiv-cls:train .
#   docker run --rm --gpus all -v "$PWD/data:/app/data" -v "$PWD/outputs:/app/outputs" arxiv-cls:train \
#       recipes/minilm.yaml --trainer.learning_rate 5e-5
#
# Targets: train (torch with CUDA on amd64), baseline and evaluate (torch for the CPU).

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH
WORKDIR /app

# The environment depends on three small files, so that a change of code does not install anything again.
FROM base AS sources
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY arxiv_cls/__init__.py arxiv_cls/__init__.py

FROM sources AS environment-gpu
ARG TARGETPLATFORM
RUN --mount=type=cache,id=pip-${TARGETPLATFORM},target=/root/.cache/pip \
    pip install --disable-pip-version-check -c constraints.txt ".[train,trackio]"

FROM sources AS environment-cpu
ARG TARGETPLATFORM
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,id=pip-${TARGETPLATFORM},target=/root/.cache/pip \
    pip install --disable-pip-version-check --extra-index-url "${TORCH_INDEX}" -c constraints.txt ".[train]"

# What every image has beside its environment: the code, the recipes, and a user who is not root. Caches go to a
# folder that any user may write, so that `--user "$(id -u):$(id -g)"` works with mounted folders.
FROM base AS application
RUN useradd --create-home --uid 1000 arxiv \
    && mkdir -m 777 /app/cache /app/outputs \
    && chown arxiv:arxiv /app
ENV PYTHONPATH=/app \
    HF_HOME=/app/cache/huggingface \
    MPLCONFIGDIR=/app/cache/matplotlib
COPY recipes recipes
COPY data/sample data/sample
COPY arxiv_cls arxiv_cls
USER 1000
# These images do one job and end: whether they work is their exit status.
HEALTHCHECK NONE

FROM application AS train
COPY --link --from=environment-gpu /opt/venv /opt/venv
ENTRYPOINT ["accelerate", "launch", "--quiet", "arxiv_cls/train.py"]
CMD ["recipes/distilbert.yaml"]

FROM application AS baseline
COPY --link --from=environment-cpu /opt/venv /opt/venv
ENTRYPOINT ["python", "arxiv_cls/train_tfidf.py"]
CMD ["recipes/tfidf_xgboost.yaml"]

FROM application AS evaluate
COPY --link --from=environment-cpu /opt/venv /opt/venv
ENTRYPOINT ["arxiv-cls", "evaluate"]
CMD ["--help"]
