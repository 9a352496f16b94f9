# The images of Tensorpool: targets `operator`, `node-driver` and `examples`.
#
#   docker build --target operator    --tag REPOSITORY/operator:0.1.0    .
#   docker build --target node-driver --tag REPOSITORY/node-driver:0.1.0 .
#   docker build --target examples    --tag REPOSITORY/examples:0.1.0    .
#
# Programs that were built outside take the place of the first stage: `--build-context build=DIRECTORY`,
# with the programs in DIRECTORY/out. The tests do that (`cargo xtask e2e`).

# What compiles.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
# What the programs stand on. They are static: nothing is needed, no shell and no library. An
# organisation's own base takes its place, where every image must have one.
ARG BASE_IMAGE=scratch

FROM ${BUILD_IMAGE} AS build
RUN apt-get update -q && apt-get install -qy --no-install-recommends musl-tools
WORKDIR /source
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" \
    && rustup target add "$target" \
    && cargo build --locked --release --target "$target" --package tensorpool-operator --bins \
    && cargo build --locked --release --target "$target" \
        --package tensorpool-node-driver --no-default-features --features kubernetes --bins \
    && cargo build --locked --release --target "$target" \
        --package tensorpool-client --no-default-features --examples \
    && mkdir /out \
    && cd "target/$target/release" \
    && cp tensorpool-operator tensorpool-guard tensorpool-node-driver /out/ \
    && cp examples/producer examples/consumer examples/exchange /out/ \
    && strip /out/*

FROM ${BASE_IMAGE} AS operator
COPY --from=build /out/tensorpool-operator /out/tensorpool-guard /
USER 65532:65532
ENTRYPOINT ["/tensorpool-operator"]

# Pid 1 of the driver's container is `supervise`, as the chart says; two other containers run as root.
FROM ${BASE_IMAGE} AS node-driver
COPY --from=build /out/tensorpool-node-driver /
USER 65532:65532
ENTRYPOINT ["/tensorpool-node-driver"]

# client/examples, for trials and for `helm test`.
FROM ${BASE_IMAGE} AS examples
COPY --from=build /out/producer /out/consumer /out/exchange /
USER 65532:65532
