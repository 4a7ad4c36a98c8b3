//! Debian packages that tests need, downloaded by apt and unpacked below the target folder.
//!
//! What always holds: nothing is installed and nothing is committed; a package is downloaded once, and of tests that
//! want it at the same time one fetches it while the others wait; a folder that is there is complete.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

/// Package that depends on the current kernel for virtual machines.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Why a package cannot be had.
#[derive(Debug, Error)]
pub enum PackageError {
    /// This is no Debian, or it lacks a tool.
    #[error("{program} cannot be started ({error}); Debian's packages need apt and dpkg")]
    NoTool {
        /// The tool.
        program: &'static str,
        /// The operating system's answer.
        error: io::Error,
    },
    /// A tool refused.
    #[error("`{command}` failed: {output}; remedy: apt-get update, or a network")]
    Tool {
        /// What was called.
        command: String,
        /// The last line that it said.
        output: String,
    },
    /// A file or folder cannot be made or read.
    #[error("cannot {what} {path}: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// The operating system's answer.
        error: io::Error,
    },
    /// The package does not hold what was expected.
    #[error("package {package} holds no {what}")]
    Content {
        /// The package.
        package: String,
        /// What is missing.
        what: &'static str,
    },
}

/// Debian's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinuxKernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The folder `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// Debian's current kernel for virtual machines, unmodified.
///
/// # Errors
/// [`PackageError`].
pub fn linux_kernel() -> Result<LinuxKernel, PackageError> {
    let package = dependency(KERNEL_META_PACKAGE, "linux-image-")?;
    let root = debian_package(&package)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    let modules = root.join("lib/modules").join(&release);
    if !image.is_file() || !modules.is_dir() {
        return Err(PackageError::Content { package, what: "kernel with modules" });
    }
    Ok(LinuxKernel { release, image, modules })
}

/// A busybox that needs no libraries.
///
/// # Errors
/// [`PackageError`].
pub fn busybox() -> Result<PathBuf, PackageError> {
    const PACKAGE: &str = "busybox-static";
    let root = debian_package(PACKAGE)?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| root.join(place));
    let missing = || PackageError::Content { package: PACKAGE.to_owned(), what: "busybox" };
    places.into_iter().find(|place| place.is_file()).ok_or_else(missing)
}

/// The folder that a package was unpacked to; it is downloaded and unpacked if that has not been done yet.
///
/// # Errors
/// [`PackageError`].
pub fn debian_package(name: &str) -> Result<PathBuf, PackageError> {
    let folder = cache();
    fs::create_dir_all(&folder).map_err(file("make", &folder))?;
    let lock_path = folder.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(file("make", &lock_path))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| file("lock", &lock_path)(error.into()))?;

    let root = folder.join(name);
    if root.is_dir() {
        return Ok(root);
    }
    eprintln!("downloading Debian's package {name}");
    let work = tempfile::Builder::new().prefix("unpacking-").tempdir_in(&folder).map_err(file("make a folder in", &folder))?;
    // As root, apt would download as its own user, which may not write here.
    tool("apt-get", Command::new("apt-get").args(["download", "-o", "APT::Sandbox::User=root", name]).current_dir(work.path()))?;
    let archive =
        first_with_extension(work.path(), "deb")?.ok_or(PackageError::Content { package: name.to_owned(), what: "archive" })?;
    let unpacked = work.path().join("root");
    tool("dpkg-deb", Command::new("dpkg-deb").arg("--extract").args([&archive, &unpacked]))?;
    fs::rename(&unpacked, &root).map_err(file("rename to", &root))?;
    Ok(root)
}

/// The package beginning with `prefix` that `name` depends on.
fn dependency(name: &str, prefix: &str) -> Result<String, PackageError> {
    let text = tool("apt-cache", Command::new("apt-cache").args(["depends", "--important", name]))?;
    let mut dependencies = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let found = dependencies.find(|dependency| dependency.starts_with(prefix)).map(str::to_owned);
    found.ok_or_else(|| PackageError::Content { package: name.to_owned(), what: "dependency on a kernel" })
}

/// The folder of what was downloaded: in the target folder, which nobody commits and `cargo clean` empties.
fn cache() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("debian-packages")
}

/// Runs a tool and returns what it printed.
fn tool(program: &'static str, command: &mut Command) -> Result<String, PackageError> {
    let output = command.env("LC_ALL", "C").output().map_err(|error| PackageError::NoTool { program, error })?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(PackageError::Tool { command: format!("{command:?}"), output: last });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackageError {
    let path = path.display().to_string();
    move |error| PackageError::File { what, path, error }
}

fn first_with_extension(folder: &Path, extension: &str) -> Result<Option<PathBuf>, PackageError> {
    for entry in fs::read_dir(folder).map_err(file("read", folder))? {
        let path = entry.map_err(file("read", folder))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
