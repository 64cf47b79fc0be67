# A sidecar beside QEMU: mount the directory of QEMU's socket at /qemu and give the tools the one at /guard.
#   docker run --read-only --cap-drop ALL -v qemu:/qemu -v guard:/guard IMAGE
FROM docker.io/library/python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY qmpguard ./qmpguard
RUN python -m venv /opt/qmpguard && /opt/qmpguard/bin/pip install --no-cache-dir .

FROM docker.io/library/python:3.13-slim
LABEL org.opencontainers.image.title="qmpguard" \
      org.opencontainers.image.description="A QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/qmpguard /opt/qmpguard
ENV PATH=/opt/qmpguard/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    QMPGUARD_QEMU=/qemu/qmp.sock QMPGUARD_LISTEN=/guard/qmp.sock
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["qmpguard"]
CMD ["run"]
