# The images of Tensorpool: targets `operator`, `node-driver` and `examples`.
#
#   docker build --target operator    --tag REPOSITORY/operator:0.1.0    .
#   docker build --target node-driver --tag REPOSITORY/node-driver:0.1.0 .
#   docker build --target examples    --tag REPOSITORY/examples:0.1.0    .
#
# Programs that were built outside take the place of the first stage: `--build-context build=DIRECTORY`,
# with the programs in DIRECTORY/out. The tests do that (`cargo xtask e2e`).

# What compiles. Debian 13, since Aeron's native part needs CMake 3.30.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-trixie
# What the programs stand on. They are static: nothing is needed, no shell and no library. An
# organisation's own base takes its place, where every image must have one.
ARG BASE_IMAGE=scratch

FROM ${BUILD_IMAGE} AS build
RUN apt-get update -q && apt-get install -qy --no-install-recommends \
        cmake libbsd-dev libclang-dev libmd-dev musl-tools uuid-dev
WORKDIR /source
COPY . .
# The driver, and examples for pods on Aeron, hold Aeron's C code. Its libraries are there for glibc only,
# so these are linked with that, statically, and the operator with them: it compiles much of the same.
# Examples for sockets need no C at all. Without a named processor Aeron would be built for that of the
# machine that compiles. What binds Aeron is formatted as it is built, and not built without rustfmt.
RUN machine="$(uname -m)" \
    && case "$machine" in x86_64) march=x86-64-v2;; aarch64) march=armv8-a;; esac \
    && glibc="$machine-unknown-linux-gnu" musl="$machine-unknown-linux-musl" \
    && rustup target add "$musl" && rustup component add rustfmt \
    && export RUSTERON_C_MARCH="$march" CARGO_PROFILE_RELEASE_DEBUG=0 \
    && with_glibc="-C target-feature=+crt-static -C link-arg=-l:libbsd.a -C link-arg=-l:libmd.a" \
    && RUSTFLAGS="$with_glibc" cargo build --locked --release --target "$glibc" \
        --package tensorpool-operator --package tensorpool-node-driver --bins \
    && RUSTFLAGS="$with_glibc" cargo build --locked --release --target "$glibc" \
        --package tensorpool-client --features aeron --examples \
    && cargo build --locked --release --target "$musl" \
        --package tensorpool-client --no-default-features --examples \
    && mkdir --parents /out/aeron \
    && cd "target/$glibc/release" \
    && cp tensorpool-operator tensorpool-guard tensorpool-node-driver /out/ \
    && cp examples/producer examples/consumer examples/exchange examples/pace /out/aeron/ \
    && cd "../../$musl/release" \
    && cp examples/producer examples/consumer examples/exchange examples/pace /out/ \
    && strip /out/tensorpool-* /out/producer /out/consumer /out/exchange /out/pace /out/aeron/*

FROM ${BASE_IMAGE} AS operator
COPY --from=build /out/tensorpool-operator /out/tensorpool-guard /
USER 65532:65532
ENTRYPOINT ["/tensorpool-operator"]

# Pid 1 of the containers `driver` and `aeronmd` is `supervise`, as the chart says; two others run as root.
FROM ${BASE_IMAGE} AS node-driver
COPY --from=build /out/tensorpool-node-driver /
USER 65532:65532
ENTRYPOINT ["/tensorpool-node-driver"]

# client/examples, for trials and for `helm test`: on sockets, and below /aeron for pods on Aeron.
FROM ${BASE_IMAGE} AS examples
COPY --from=build /out/producer /out/consumer /out/exchange /out/pace /
COPY --from=build /out/aeron /aeron
USER 65532:65532
