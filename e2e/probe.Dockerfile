# The program for test pods that mean harm (e2e/src/bin/probe). No image of the product has it.
FROM scratch
COPY --from=build /out/tensorpool-probe /
USER 65532:65532
ENTRYPOINT ["/tensorpool-probe"]
