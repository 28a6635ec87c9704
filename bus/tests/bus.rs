//! The bus over the memory transport: one binary, so that it links once.

#[cfg(test)]
mod bus {
    mod absence;
    mod batteries;
    mod fixture;
    mod hostile;
    mod measured;
    mod sessions;
}
