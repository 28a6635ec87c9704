//! Ports of this host: given to a unit once, and its own until it is deleted.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, TcpListener, UdpSocket},
};

use super::{error::RuntimeError, unit::PortBinding};
use crate::manifest::{PortSpec, Protocol};

/// Tries before giving up on a free port that nobody of ours has: far more than ever needed.
const TRIES: u32 = 64;

/// Who has which port.
#[derive(Debug, Default)]
pub(super) struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<(IpAddr, String)>>,
}

impl Ports {
    /// Gives `unit` a port for each of `wanted`: all of them or, on an error, none.
    pub(super) fn assign(
        &mut self,
        unit: &str,
        wanted: &[PortSpec],
    ) -> Result<Vec<PortBinding>, RuntimeError> {
        let mut bindings = Vec::new();
        for spec in wanted {
            match self.pick(spec) {
                Ok(host_port) => {
                    let binding = PortBinding {
                        name: spec.name.to_string(),
                        port: spec.port,
                        host_port,
                        protocol: spec.protocol,
                        address: spec.address,
                        fixed: spec.host_port != 0,
                    };
                    self.reserve(unit, &binding);
                    bindings.push(binding);
                }
                Err(error) => {
                    self.release(unit);
                    return Err(error);
                }
            }
        }
        Ok(bindings)
    }

    /// Notes a port that `unit` has already.
    pub(super) fn reserve(&mut self, unit: &str, binding: &PortBinding) {
        let holders = self.taken.entry((binding.protocol, binding.host_port)).or_default();
        holders.push((binding.address, unit.to_owned()));
    }

    /// Frees all ports of `unit`.
    pub(super) fn release(&mut self, unit: &str) {
        self.taken.retain(|_, holders| {
            holders.retain(|(_, holder)| holder != unit);
            !holders.is_empty()
        });
    }

    fn pick(&self, spec: &PortSpec) -> Result<u16, RuntimeError> {
        let cannot = |source| {
            RuntimeError::io(
                format!("spec.ports: no port on {} for {:?}", spec.address, spec.name.as_str()),
                source,
            )
        };
        if spec.host_port != 0 {
            return match self.holder(spec.protocol, spec.address, spec.host_port) {
                Some(holder) => Err(in_use(spec, format!(" by unit {holder}"))),
                None => match probe(spec.protocol, spec.address, spec.host_port) {
                    Ok(port) => Ok(port),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        Err(in_use(spec, String::new()))
                    }
                    Err(error) => Err(cannot(error)),
                },
            };
        }
        for _ in 0..TRIES {
            let port = probe(spec.protocol, spec.address, 0).map_err(cannot)?;
            if self.holder(spec.protocol, spec.address, port).is_none() {
                return Ok(port);
            }
        }
        Err(cannot(io::Error::other("all ports that the system offers are given to other units")))
    }

    fn holder(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<&str> {
        let holders = self.taken.get(&(protocol, port))?;
        let clash = |other: &IpAddr| *other == address || other.is_unspecified() || address.is_unspecified();
        holders.iter().find(|(other, _)| clash(other)).map(|(_, unit)| unit.as_str())
    }
}

/// Complains when a fixed port of a unit that is to start again was taken by someone else meanwhile.
pub(super) fn check_free(binding: &PortBinding) -> Result<(), RuntimeError> {
    match probe(binding.protocol, binding.address, binding.host_port) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(RuntimeError::PortInUse {
            name: binding.name.clone(),
            port: binding.host_port,
            protocol: binding.protocol.word(),
            address: binding.address,
            by: String::new(),
        }),
        _ => Ok(()),
    }
}

fn in_use(spec: &PortSpec, by: String) -> RuntimeError {
    let (name, protocol) = (spec.name.to_string(), spec.protocol.word());
    RuntimeError::PortInUse { name, port: spec.host_port, protocol, address: spec.address, by }
}

/// Binds and lets go again; says which port it was.
fn probe(protocol: Protocol, address: IpAddr, port: u16) -> io::Result<u16> {
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind((address, port))?.local_addr()?,
        Protocol::Udp => UdpSocket::bind((address, port))?.local_addr()?,
    };
    Ok(bound.port())
}
