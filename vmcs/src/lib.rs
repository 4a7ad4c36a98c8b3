//! What the Intel SDM says about VMX.
#![no_std]
