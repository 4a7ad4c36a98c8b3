//! Nested VMX.
#![no_std]
