# A sidecar beside QEMU: it shares one directory with QEMU and another one with the tools. See examples/ for both sides.
#   docker run --read-only --cap-drop ALL --network none -v qemu:/qemu -v guard:/guard IMAGE
ARG PYTHON=docker.io/library/python:3.13-slim

FROM ${PYTHON} AS build
# pip takes its settings from these, if they are given: an index of your own, or a directory with wheels
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY qmpguard ./qmpguard
# units, manual page, completions and documents stay out of the image
RUN sed -i '/^\[tool\.setuptools\.data-files\]/,/^$/d' pyproject.toml
# pip stays behind in this stage. The directories are for volumes: a new one takes over owner and mode.
RUN python3 -m venv /build \
 && python3 -m venv --without-pip /opt/qmpguard \
 && /build/bin/pip --python /opt/qmpguard/bin/python --no-cache-dir --disable-pip-version-check install . \
 && install -d -m 0750 -o 65532 -g 65532 /volumes/guard /volumes/qemu

FROM ${PYTHON}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="qmpguard" \
      org.opencontainers.image.description="A QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/qmpguard /opt/qmpguard
COPY --from=build /volumes /
ENV PATH=/opt/qmpguard/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    QMPGUARD_QEMU=/qemu/qmp.sock QMPGUARD_LISTEN=/guard/qmp.sock QMPGUARD_ADMIN=/guard/admin.sock
USER 65532:65532
STOPSIGNAL SIGTERM
# asks the guard whether its event loop turns; never QEMU, which may come later and may restart
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["qmpguard", "healthcheck"]
ENTRYPOINT ["qmpguard"]
CMD ["run"]
