//! A way to an engine on which single requests go astray.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::watch,
    task::JoinSet,
};

use crate::engine::Engine;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    /// The engine hears it, and its answer is never heard.
    Unanswered,
    /// It does not come through until [`Proxy::release`], and then if it is still waited for.
    Held,
    /// Its connection ends.
    Cut,
    /// The engine would say this, if it were asked.
    Refused(u16, &'static str),
}

type Rule = Box<dyn Fn(&str) -> Fate + Send + Sync>;

/// Ends with this.
pub(crate) struct Proxy {
    pub(crate) socket: PathBuf,
    state: Arc<State>,
    /// Ends with this.
    _accepts: JoinSet<()>,
    #[expect(dead_code, reason = "dropped to remove it")]
    dir: TempDir,
}

struct State {
    rule: Mutex<Rule>,
    seen: Mutex<Vec<String>>,
    released: watch::Sender<()>,
}

impl Proxy {
    /// Before `engine`; all passes.
    pub(crate) fn before(engine: &Engine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(State {
            rule: Mutex::new(Box::new(|_| Fate::Passes)),
            seen: Mutex::default(),
            released: watch::Sender::new(()),
        });
        let (to, shared) = (engine.socket.clone(), Arc::clone(&state));
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            // Gone with this task.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (to, state) = (to.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    if let Ok(engine) = UnixStream::connect(to).await {
                        state.carry(client, engine).await;
                    }
                });
            }
        });
        Self { socket, state, _accepts: accepts, dir }
    }

    /// From here on: by method and path without the version, as `POST /containers/0123/start`.
    pub(crate) fn rule(&self, rule: impl Fn(&str) -> Fate + Send + Sync + 'static) {
        *self.state.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
    }

    /// All passes from here on, also what is held.
    pub(crate) fn release(&self) {
        self.rule(|_| Fate::Passes);
        self.state.released.send_replace(());
    }

    /// Requests so far that begin and end so, as for a rule, without a query.
    pub(crate) fn count(&self, method: &str, end: &str) -> usize {
        let seen = self.state.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|request| request.starts_with(method) && request.ends_with(end)).count()
    }
}

impl State {
    /// Until either side ends it.
    async fn carry(&self, client: UnixStream, engine: UnixStream) {
        let (from_client, mut to_client) = client.into_split();
        let (mut from_engine, mut to_engine) = engine.into_split();
        let mut from_client = BufReader::new(from_client);
        let (muted, mut is_muted) = watch::channel(false);
        let (answers, mut refusals) = tokio::sync::mpsc::channel::<String>(1);
        let answering = async {
            let mut bytes = vec![0; 64 * 1024];
            loop {
                tokio::select! {
                    read = from_engine.read(&mut bytes) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(_) if *is_muted.borrow_and_update() => {}
                        Ok(count) => if to_client.write_all(bytes.get(..count).unwrap_or_default()).await.is_err() { return },
                    },
                    Some(refusal) = refusals.recv() => {
                        if to_client.write_all(refusal.as_bytes()).await.is_err() { return }
                    }
                }
            }
        };
        let asking = async {
            while let Some(request) = Request::read(&mut from_client).await {
                let mut released = self.released.subscribe();
                let fate = self.rule.lock().unwrap_or_else(PoisonError::into_inner)(&request.line);
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.line.clone());
                match fate {
                    Fate::Passes => {}
                    Fate::Unanswered => drop(muted.send(true)),
                    Fate::Held => tokio::select! {
                        _ = released.changed() => {}
                        // It is not waited for any more; or its body has come, which takes nothing away.
                        () = ended(&mut from_client) => return,
                    },
                    Fate::Cut => return,
                    Fate::Refused(status, message) => {
                        request.body(&mut from_client, &mut tokio::io::sink()).await;
                        let body = format!("{{\"message\":\"{message}\"}}");
                        let head = "Content-Type: application/json\r\nContent-Length:";
                        let answer = format!("HTTP/1.1 {status} No\r\n{head} {}\r\n\r\n{body}", body.len());
                        answers.send(answer).await.ok();
                        continue;
                    }
                }
                if to_engine.write_all(&request.head).await.is_err() {
                    return;
                }
                request.body(&mut from_client, &mut to_engine).await;
            }
            // Half closed: the answer may still be on its way.
            to_engine.shutdown().await.ok();
            std::future::pending().await
        };
        tokio::select! {
            () = answering => {}
            () = asking => {}
        }
    }
}

/// Returns when there will be no more.
async fn ended(from: &mut BufReader<OwnedReadHalf>) {
    if from.fill_buf().await.is_ok_and(|found| !found.is_empty()) {
        std::future::pending::<()>().await;
    }
}

struct Request {
    /// Method and path.
    line: String,
    head: Vec<u8>,
    body: Body,
}

enum Body {
    Bytes(u64),
    Chunks,
    /// Whatever comes: it is no HTTP any more.
    Stream,
}

impl Request {
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(from.read_u8().await.ok()?);
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        let value = |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
        let body = match (value("upgrade:"), value("transfer-encoding:"), value("content-length:")) {
            (Some(_), ..) => Body::Stream,
            (_, Some(_), _) => Body::Chunks,
            (_, _, length) => Body::Bytes(length.map_or(0, |length| length.parse().unwrap())),
        };
        let first = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
        let (method, path) = first.split_once(' ')?;
        let path = path.split([' ', '?']).next()?;
        let path =
            path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
        Some(Self { line: format!("{method} {path}"), head, body })
    }

    async fn body(&self, from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
        match self.body {
            Body::Bytes(length) => drop(tokio::io::copy(&mut from.take(length), to).await),
            Body::Stream => drop(tokio::io::copy(from, to).await),
            Body::Chunks => while chunk(from, to).await.unwrap_or(0) > 0 {},
        }
    }
}

/// Carries one over; its size.
async fn chunk(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<u64> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n") {
        head.push(from.read_u8().await?);
    }
    to.write_all(&head).await?;
    let size = u64::from_str_radix(String::from_utf8_lossy(&head).trim(), 16).unwrap();
    tokio::io::copy(&mut from.take(size + 2), to).await?;
    Ok(size)
}
