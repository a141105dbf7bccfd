//! Takes Swagger UI out of the archive that its crate brings, so that `/docs` works without a network; and tells a CUDA
//! build what its kernels are compiled for.

use std::error::Error;
use std::fs::File;
use std::io::{self, Cursor};
use std::path::PathBuf;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::ZipArchive;

const FILES: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Some(capability) = compute_capability()
    {
        println!("cargo::rustc-env=PODIUM_COMPUTE_CAPABILITY={capability}");
    }
    let folder = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut archive = ZipArchive::new(Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED))?;
    for name in FILES {
        let suffix = format!("/dist/{name}");
        let path = archive.file_names().find(|path| path.ends_with(&suffix)).map(str::to_owned);
        let mut file = archive.by_name(&path.ok_or_else(|| format!("the archive has no {suffix}"))?)?;
        let mut packed = GzEncoder::new(File::create(folder.join(format!("{name}.gz")))?, Compression::best());
        io::copy(&mut file, &mut packed)?;
        packed.finish()?;
    }
    Ok(())
}

/// The GPU that the crates with CUDA kernels compile them for: the same variable, or else the GPU that the driver shows first.
fn compute_capability() -> Option<String> {
    std::env::var("CUDA_COMPUTE_CAP").ok().or_else(|| {
        let asked =
            Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output().ok()?;
        let answer = String::from_utf8(asked.stdout).ok().filter(|_| asked.status.success())?;
        Some(answer.lines().next()?.trim().replace('.', ""))
    })
}
