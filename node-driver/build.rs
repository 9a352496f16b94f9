//! Compiles the protocols of CSI and of kubelet's plugin registration, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "kubernetes")]
    {
        let files = protox::compile(["csi.proto", "pluginregistration.proto"], ["proto"])?;
        tonic_prost_build::configure()
            // What an inline node plugin does not offer answers UNIMPLEMENTED by itself.
            .generate_default_stubs(true)
            // Comments of the specification are not written for rustdoc.
            .disable_comments(["."])
            .compile_fds(files)?;
    }
    Ok(())
}
