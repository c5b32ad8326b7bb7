# Two images from one file, both without root:
#   docker build --target api   -t headmap-api   .     scoring API and migrations, no torch
#   docker build --target model -t headmap-model .     inference and scoring workers
# REVISION, the commit it is built from, becomes a label. Further build arguments of `model`: TORCH, the requirement, and TORCH_INDEX, an index to install it from instead of pip's own
# (for example PyTorch's index of CPU-only builds, which are ten times smaller).

FROM python:3.11-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app/shared:/app \
    PATH=/opt/headmap/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    HF_HOME=/models/hub \
    HEADMAP_DATA_DIR=/tmp/headmap
RUN groupadd --gid 10001 headmap \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin headmap \
 && mkdir -p /models/hub /models/local /uploads /blobs \
 && chown -R headmap:headmap /models /uploads /blobs
WORKDIR /app

FROM base AS api-dependencies
RUN python -m venv /opt/headmap
COPY requirements/api.txt /requirements/
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /requirements/api.txt

FROM api-dependencies AS model-dependencies
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
RUN pip install --no-cache-dir --disable-pip-version-check ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
COPY requirements/model.txt /requirements/
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /requirements/model.txt

# Owned by root and readable by all, whatever the modes in the checkout are.
FROM base AS source
COPY migrations /app/migrations
COPY shared /app/shared
COPY services /app/services
RUN chmod -R a+rX /app && python -m compileall -q /app

# The documentation as web pages, which the dashboard shows at /guide/.
FROM api-dependencies AS guide
COPY requirements/docs.txt /requirements/
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r /requirements/docs.txt
COPY LICENSE mkdocs.yml *.md /app/
COPY docs /app/docs
COPY --from=source /app /app
RUN NO_MKDOCS_2_WARNING=1 mkdocs build --strict --site-dir /guide && chmod -R a+rX /guide

FROM base AS api
ENV HEADMAP_GUIDE_DIR=/app/guide
COPY --from=api-dependencies /opt/headmap /opt/headmap
COPY --from=source /app /app
COPY --from=guide /guide /app/guide
USER headmap
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=15s --start-period=180s --retries=3 \
  CMD ["python", "-m", "services.health", "http://127.0.0.1:8000/health/ready"]
CMD ["python", "-m", "services.scoring", "--host", "0.0.0.0", "--port", "8000"]
ARG REVISION=
LABEL org.opencontainers.image.title="headmap-api" \
      org.opencontainers.image.description="Headmap's scoring API, dashboard and migrations" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM base AS model
# Compiles decode attention for the processor that a container runs on; Triton asks for a compiler too.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
# Threads of torch that wait must not spin: other processes of the host need the processors.
ENV OMP_WAIT_POLICY=PASSIVE
COPY --from=model-dependencies /opt/headmap /opt/headmap
COPY --from=source /app /app
USER headmap
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=15s --start-period=600s --retries=3 \
  CMD ["python", "-m", "services.health", "http://127.0.0.1:8000/health/ready"]
CMD ["python", "-m", "services.inference", "--host", "0.0.0.0", "--port", "8000"]
ARG REVISION=
LABEL org.opencontainers.image.title="headmap-model" \
      org.opencontainers.image.description="Headmap's inference service and scoring workers" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0"
