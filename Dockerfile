# Images of jaxtag with the tested versions of constraints.txt:
#
#   docker build --target=tpu --tag=jaxtag .      # or --target=cuda, --target=cpu
#   docker run --rm jaxtag train --help
#
# Data workers need shared memory: docker run --shm-size=8g.
FROM python:3.11-slim-bookworm AS base
RUN apt-get update \
  && apt-get install --no-install-recommends --yes libgomp1 libtcmalloc-minimal4 \
  && rm -rf /var/lib/apt/lists/*
ENV LD_PRELOAD=libtcmalloc_minimal.so.4 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/jaxtag
# What depends on these files alone stays in Docker's cache when the code changes.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY jaxtag/__init__.py jaxtag/

FROM base AS cpu
RUN pip install ".[cpu]" --constraint constraints.txt
COPY . .
RUN pip install --no-deps --force-reinstall .
WORKDIR /work
ENTRYPOINT ["jaxtag"]

FROM base AS cuda
RUN pip install ".[cuda]" --constraint constraints.txt
COPY . .
RUN pip install --no-deps --force-reinstall .
WORKDIR /work
ENTRYPOINT ["jaxtag"]

FROM base AS tpu
RUN pip install ".[tpu]" --constraint constraints.txt
COPY . .
RUN pip install --no-deps --force-reinstall .
WORKDIR /work
ENTRYPOINT ["jaxtag"]
