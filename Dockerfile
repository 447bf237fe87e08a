# The coordinator. BASE_IMAGE needs python3 (3.11 or newer) with venv; see scripts/image-check for another one.
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt
RUN python3 -m venv /opt/bucketline
# The requirements first, on an empty package: this layer is cached until they change. With your own mirror:
#   docker build --secret id=pip.conf,src=pip.conf --secret id=ca.pem,src=ca.pem .
# (both optional, and neither stays in the image; `cert = /run/secrets/ca.pem` in pip.conf names the second)
COPY pyproject.toml constraints.txt ./
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    mkdir -p client/bucketline service/bucketline_service \
    && touch README.md LICENSE client/bucketline/__init__.py service/bucketline_service/__init__.py \
    && /opt/bucketline/bin/pip install '.[service,otel]'
COPY README.md LICENSE ./
COPY client client
COPY service service
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    /opt/bucketline/bin/pip install --no-deps --force-reinstall . \
    && /opt/bucketline/bin/pip uninstall --yes setuptools pip
# Remove what the coordinator never loads: test suites, headers and Arrow's RPC library (50 MB in total). The last line
# fails the build if too much was removed.
RUN find /opt/bucketline -type d \( -name tests -o -path '*/pyarrow/include' \) -prune -exec rm -rf {} + \
    && find /opt/bucketline -path '*/pyarrow/*' -name '*_flight*.so*' -delete \
    && /opt/bucketline/bin/python -c 'import pyarrow.csv, pyarrow.dataset, pyarrow.fs, pyarrow.json, pyarrow.parquet'

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="bucketline" \
      org.opencontainers.image.description="Aspect-ratio bucket planning as a service" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 bucketline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/bucketline --shell /usr/sbin/nologin bucketline \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/bucketline
COPY --from=build /opt/bucketline /opt/bucketline
# Every setting of `bucketline serve` is an environment variable. It refuses to listen beyond loopback without
# BUCKETLINE_WORKER_TOKEN and BUCKETLINE_OPERATOR_TOKEN (or ..._TOKEN_FILE): give both to `docker run`.
ENV PATH=/opt/bucketline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BUCKETLINE_HOST=0.0.0.0 \
    BUCKETLINE_PORT=7700 \
    BUCKETLINE_DATA_DIR=/var/lib/bucketline
# The root file system may be read-only: only this volume is written to, and /tmp.
VOLUME /var/lib/bucketline
EXPOSE 7700
USER 10001:10001
WORKDIR /var/lib/bucketline
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import os, ssl, urllib.request as r; c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE; r.build_opener(r.ProxyHandler({}), r.HTTPSHandler(context=c)).open(('https' if os.environ.get('BUCKETLINE_TLS_CERT') else 'http') + '://127.0.0.1:' + os.environ['BUCKETLINE_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["bucketline"]
CMD ["serve"]
