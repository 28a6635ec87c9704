//! The engine as a whole, over managers that do what a test says.
