# Training, evaluation, serving and the demo in containers; docs/containers.md shows each. Data and outputs are mounted, recipes are
# inside, arguments are those of the commands, so that another recipe, key or model needs no other image:
#
#   make images                       # for this machine's platform; TARGETS="serve space" builds only those
#   docker run --rm -v "$PWD/data:/app/data" -v "$PWD/outputs:/app/outputs" arxiv-cls/baseline:dev \
#       recipes/tfidf_xgboost.yaml --trainer.seed 1
#
# Targets: train (torch with CUDA on amd64), baseline and evaluate (torch for the CPU), serve, monitor and space (no
# torch).

# The digest is that of the index of all platforms; dependabot moves it with the tag.
FROM python:3.12.15-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3 AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH
WORKDIR /app

# An environment depends on these small files, so that a change of code does not install anything again. The build
# of the package asks for the other two, whatever they hold: an edit of the README installs nothing either.
FROM base AS sources
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt hashes.txt ./
COPY scripts/install.py scripts/install.py
COPY arxiv_cls/__init__.py arxiv_cls/__init__.py
RUN touch README.md LICENSE

FROM sources AS environment-gpu
ARG TARGETPLATFORM
RUN --mount=type=cache,id=pip-${TARGETPLATFORM},target=/root/.cache/pip \
    python scripts/install.py train,trackio,minilm

FROM sources AS environment-cpu
ARG TARGETPLATFORM
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,id=pip-${TARGETPLATFORM},target=/root/.cache/pip \
    PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" python scripts/install.py train,export

# The baseline is here for the cascade, which asks it first.
FROM sources AS environment-serve
ARG TARGETPLATFORM
RUN --mount=type=cache,id=pip-${TARGETPLATFORM},target=/root/.cache/pip \
    python scripts/install.py serve,baseline,gcs

FROM sources AS environment-monitor
ARG TARGETPLATFORM
RUN --mount=type=cache,id=pip-${TARGETPLATFORM},target=/root/.cache/pip \
    python scripts/install.py drift

FROM sources AS environment-space
ARG TARGETPLATFORM
RUN --mount=type=cache,id=pip-${TARGETPLATFORM},target=/root/.cache/pip \
    python scripts/install.py space,baseline

# What every image has beside its environment: the code, and a user who is not root. Caches go to a folder that
# any user may write, so that `--user "$(id -u):$(id -g)"` works with mounted folders.
FROM base AS application
RUN useradd --create-home --uid 1000 arxiv \
    && mkdir -m 777 /app/cache /app/outputs /app/requests /app/feedback /app/monitoring \
    && chown arxiv:arxiv /app
ENV PYTHONPATH=/app \
    HF_HOME=/app/cache/huggingface \
    MPLCONFIGDIR=/app/cache/matplotlib
COPY arxiv_cls arxiv_cls
USER 1000

# These do one job and end: whether they work is their exit status (137: out of memory, see arxiv_cls/container.py).
FROM application AS job
COPY recipes recipes
COPY data/sample data/sample
HEALTHCHECK NONE
# An image holds no repository: the commit that it was built from stands in the record of each run (make images
# passes it when the tree is clean), and without one the gate of a release refuses.
ARG COMMIT=""
ENV ARXIV_CLS_COMMIT=${COMMIT}

FROM job AS train
COPY --link --from=environment-gpu /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "arxiv_cls.container", "python", "arxiv_cls/train.py"]
CMD ["recipes/distilbert.yaml"]

FROM job AS baseline
COPY --link --from=environment-cpu /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "arxiv_cls.container", "python", "arxiv_cls/train_tfidf.py"]
CMD ["recipes/tfidf_xgboost.yaml"]

FROM job AS evaluate
COPY --link --from=environment-cpu /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "arxiv_cls.container", "arxiv-cls", "evaluate"]
CMD ["--help"]

FROM application AS serve
COPY --link --from=environment-serve /opt/venv /opt/venv
# Inside a container every network is the container's own; what is reachable is what `docker run -p` says.
ENV ARXIV_CLS_HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "arxiv_cls.container", "--check", "/health"]
ENTRYPOINT ["python", "-m", "arxiv_cls.container", "arxiv-cls", "serve"]
CMD ["--help"]

FROM application AS monitor
COPY --link --from=environment-monitor /opt/venv /opt/venv
ENV ARXIV_CLS_MONITOR_HOST=0.0.0.0 \
    PORT=8001
EXPOSE 8001
# It lives while its loop runs; /health also asks whether there is a log yet.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "arxiv_cls.container", "--check", "/health/live"]
ENTRYPOINT ["python", "-m", "arxiv_cls.container", "arxiv-cls", "monitor", "serve"]
CMD ["--help"]

FROM application AS space
COPY --link --from=environment-space /opt/venv /opt/venv
ENV GRADIO_ANALYTICS_ENABLED=False \
    PORT=7860
EXPOSE 7860
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "arxiv_cls.container", "--check", "/"]
ENTRYPOINT ["python", "-m", "arxiv_cls.container", "arxiv-cls", "space", "--host", "0.0.0.0"]
CMD ["--help"]
