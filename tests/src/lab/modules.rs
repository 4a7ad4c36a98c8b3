//! KVM's modules from Debian's kernel package, made small.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use thiserror::Error;

/// The modules in the order in which they are loaded, and where they lie in the kernel's folder of modules.
pub const MODULES: &[(&str, &str)] = &[
    ("irqbypass", "kernel/virt/lib/irqbypass.ko"),
    ("kvm", "kernel/arch/x86/kvm/kvm.ko"),
    ("kvm-intel", "kernel/arch/x86/kvm/kvm-intel.ko"),
];

/// Why a file could not be stripped.
#[derive(Debug, Error)]
pub enum StripError {
    /// The tool is not there.
    #[error("objcopy cannot be started ({0}); it is in Debian's package binutils")]
    NoTool(io::Error),
    /// The tool refused.
    #[error("objcopy refused {file}: {output}")]
    Refused {
        /// The file.
        file: String,
        /// What the tool said.
        output: String,
    },
    /// A file cannot be read or made.
    #[error("cannot strip {file}: {error}")]
    File {
        /// The file.
        file: String,
        /// The operating system's answer.
        error: io::Error,
    },
}

/// The bytes of the ELF file `path` without debug information. Of a kernel module the signature goes, too, which the
/// kernel would spend 450 million instructions on; Debian's kernel loads unsigned modules and only taints itself.
///
/// # Errors
/// [`StripError`].
pub fn strip(path: &Path) -> Result<Vec<u8>, StripError> {
    let name = path.display().to_string();
    let file_error = |error| StripError::File { file: name.clone(), error };
    let output = tempfile::NamedTempFile::new().map_err(file_error)?;
    let result = Command::new("objcopy")
        .args(["--strip-debug", "--remove-section=.BTF"])
        .arg(path)
        .arg(output.path())
        .output()
        .map_err(StripError::NoTool)?;
    if !result.status.success() {
        return Err(StripError::Refused { file: name, output: String::from_utf8_lossy(&result.stderr).trim().to_owned() });
    }
    fs::read(output.path()).map_err(file_error)
}
