//! Writer of an initramfs: a cpio archive of the kind "newc".
//!
//! Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Numbers are 8 hexadecimal digits; header
//! with name and contents are each padded to a multiple of 4 bytes.

/// Mode bits of a folder and of a regular file, from `stat.h`.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const NODE: u32 = 0o020_600;
/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder. Its parents must have been added.
    #[must_use]
    pub fn folder(mut self, name: &str) -> Self {
        self.entry(name, FOLDER, (0, 0), &[]);
        self
    }

    /// Adds a file that may be executed. Its folder must have been added.
    #[must_use]
    pub fn file(mut self, name: &str, contents: &[u8]) -> Self {
        self.entry(name, PROGRAM, (0, 0), contents);
        self
    }

    /// Adds a character device.
    #[must_use]
    pub fn character_device(mut self, name: &str, major: u32, minor: u32) -> Self {
        self.entry(name, NODE, (major, minor), &[]);
        self
    }

    /// The complete archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let name = name.trim_start_matches('/');
        let (size, name_size) = (contents.len() as u32, name.len() as u32 + 1);
        // Inode, mode, owner, group, links, time, size, device, device of a node, size of the name, checksum (unused).
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_where_the_format_wants_them() {
        let archive = Initramfs::new().folder("/dev").character_device("/dev/console", 5, 1).file("/init", b"#!").finish();
        let text = String::from_utf8(archive).expect("nothing but text was put in");
        let folder = "070701\
             00000001000041ed00000000000000000000000100000000000000000000000000000000000000000000000000000004000000\
             00dev\0";
        assert!(text.starts_with(folder), "{text}");
        let file = text.find("init\0").expect("the file is there");
        assert_eq!(&text[file - 110..file - 104], "070701");
        assert_eq!(&text[file - 110 + 54..file - 110 + 62], "00000002", "size of the contents");
        assert_eq!((file + 5) % 4, 3, "the name ends one byte before a boundary");
        assert_eq!(&text[file + 5..file + 10], "\0#!\0\0");
        assert!(text.contains("00000005000000010000000c00000000dev/console\0"));
        assert!(text.trim_end_matches('\0').ends_with(TRAILER));
        assert_eq!(text.len() % 4, 0);
    }
}
