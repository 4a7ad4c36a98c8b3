//! Snapshots that lie in a folder of their own and are named after the guest or the command.

use insta::Settings;

/// For `insta::assert_snapshot!` in a test's file: the snapshots in `snapshots/FOLDER` beside it.
#[must_use]
pub fn settings(folder: &str) -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(format!("snapshots/{folder}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}
