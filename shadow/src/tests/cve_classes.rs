//! Classes of bugs.
