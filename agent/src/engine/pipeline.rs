//! Operations as pipelines: steps forward, each with the result of the one before; after a failure, those that were done
//! go backward, in reverse, to the end, whoever has lost interest meanwhile.

use std::fmt;

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::Value;
use towline_protocol::{Code, ItemError};

use crate::{asker::Asker, failpoints::failpoint, mark::Mark};

/// Why a step did not do its work, and what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) verdict: Verdict,
    pub(crate) error: ItemError,
}

/// What it means that an operation ended before its last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It failed.
    Failed,
    /// It failed halfway, and what was before could not be brought back.
    Halfway,
    /// It failed, and what was before still holds.
    Unchanged,
    /// There was nothing to do; nothing is recorded.
    NoAction,
}

impl Stop {
    pub(crate) fn new(verdict: Verdict, code: Code, text: impl Into<String>) -> Self {
        Self { verdict, error: ItemError::new(code, text) }
    }

    /// Says around what it happened; the verdict stays.
    #[must_use]
    pub(crate) fn context(mut self, text: &str) -> Self {
        self.error.message = format!("{text}: {}", self.error.message);
        self
    }
}

impl From<ItemError> for Stop {
    fn from(error: ItemError) -> Self {
        Self { verdict: Verdict::Failed, error }
    }
}

/// What a step is given.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// The result of the step before; none for the first.
    pub(crate) previous: Option<Value>,
    /// Gone when the operation is taken back. A long step looks at that, and tells whenever it comes on.
    pub(crate) asker: Asker,
}

type Forward = Box<dyn FnOnce(Forwarded) -> BoxFuture<'static, Result<Value, Stop>> + Send>;
type Backward = Box<dyn FnOnce(Value) -> BoxFuture<'static, Result<(), ItemError>> + Send>;

/// One step of an operation.
pub(crate) struct Step {
    name: &'static str,
    forward: Option<Forward>,
    backward: Option<Backward>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Step({})", self.name)
    }
}

impl Step {
    /// A step with a name of a word or two. It needs a forward function.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, forward: None, backward: None }
    }

    /// What it does.
    pub(crate) fn forward<W, F>(mut self, work: W) -> Self
    where
        W: FnOnce(Forwarded) -> F + Send + 'static,
        F: Future<Output = Result<Value, Stop>> + Send + 'static,
    {
        self.forward = Some(Box::new(|forwarded| work(forwarded).boxed()));
        self
    }

    /// The same, each way of it done in a turn of `mark`, or not at all.
    pub(crate) fn in_turn(self, mark: &Mark) -> Self {
        let (there, back) = (mark.clone(), mark.clone());
        let forward = self.forward.map(|work| -> Forward {
            Box::new(move |given| {
                let turned = async move {
                    let _turn = there.turn().await.map_err(ItemError::from)?;
                    work(given).await
                };
                turned.boxed()
            })
        });
        let backward = self.backward.map(|work| -> Backward {
            Box::new(move |result| {
                let turned = async move {
                    let _turn = back.turn().await?;
                    work(result).await
                };
                turned.boxed()
            })
        });
        Self { name: self.name, forward, backward }
    }

    /// What undoes it, given its result.
    pub(crate) fn backward<W, F>(mut self, work: W) -> Self
    where
        W: FnOnce(Value) -> F + Send + 'static,
        F: Future<Output = Result<(), ItemError>> + Send + 'static,
    {
        self.backward = Some(Box::new(|result| work(result).boxed()));
        self
    }
}

/// What became of one step, in the order they were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Its name; `undo …` on the way back.
    pub(crate) step: String,
    /// Why it failed, if it did.
    pub(crate) error: Option<String>,
}

/// What became of an operation.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The result of the last step, or why the operation ended before it. Errors of undoing stand in the message.
    pub(crate) result: Result<Value, Stop>,
    /// Nothing is left of a failure.
    pub(crate) undone: bool,
    pub(crate) taken: Vec<Taken>,
}

/// Runs `steps`. Between two steps it looks whether it was cancelled; undoing cannot be.
///
/// A panic in a step is its failure, and ends nothing else.
pub(crate) async fn execute(steps: Vec<Step>, asker: &Asker) -> Ran {
    let mut taken = Vec::new();
    let mut done: Vec<(&'static str, Value, Option<Backward>)> = Vec::new();
    let mut result = Err(failed("No actions to execute."));
    for step in steps {
        let previous = done.last().map(|(_, value, _)| value.clone());
        let ran = if asker.is_gone() {
            Err(Stop::new(Verdict::Failed, Code::Cancelled, "cancelled by its caller"))
        } else if let Some(forward) = step.forward {
            let ran = guarded(forward(Forwarded { previous, asker: asker.clone() })).await;
            fail_here(ran)
        } else {
            Err(failed("All actions must define the forward function."))
        };
        taken.push(Taken {
            step: step.name.to_owned(),
            error: ran.as_ref().err().map(|stop| stop.error.message.clone()),
        });
        match ran {
            Ok(value) => {
                asker.tell();
                done.push((step.name, value.clone(), step.backward));
                result = Ok(value);
            }
            Err(stop) => {
                result = Err(stop);
                break;
            }
        }
    }
    let undone = match &mut result {
        Err(stop) if stop.verdict != Verdict::NoAction => {
            undo(done, stop, &mut taken).await && stop.verdict != Verdict::Halfway
        }
        _ => true,
    };
    Ran { result, undone, taken }
}

/// Takes back what was done; says whether all of it could be.
async fn undo(
    done: Vec<(&'static str, Value, Option<Backward>)>,
    stop: &mut Stop,
    taken: &mut Vec<Taken>,
) -> bool {
    let mut undone = true;
    for (name, value, backward) in done.into_iter().rev() {
        let Some(backward) = backward else { continue };
        let back = guarded(async {
            failpoint!("pipeline.undo", failed("a test says so"));
            backward(value).await.map_err(Stop::from).map(|()| Value::Null)
        });
        let back = back.await;
        let error = back.err().map(|second| second.error.message);
        if let Some(second) = &error {
            undone = false;
            stop.error.message.push_str(&format!("; and undoing {name} failed, too: {second}"));
        }
        taken.push(Taken { step: format!("undo {name}"), error });
    }
    undone
}

async fn guarded(work: impl Future<Output = Result<Value, Stop>>) -> Result<Value, Stop> {
    let caught = std::panic::AssertUnwindSafe(work).catch_unwind().await;
    caught.unwrap_or_else(|_| Err(failed("it panicked; the agent's log says where")))
}

/// What a step came to; a test may let it fail, or end the agent, right after it.
fn fail_here(ran: Result<Value, Stop>) -> Result<Value, Stop> {
    failpoint!("pipeline.step", failed("a test says so"));
    ran
}

fn failed(text: &str) -> Stop {
    Stop::new(Verdict::Failed, Code::Cluster, text)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use tokio_util::sync::CancellationToken;

    use super::*;

    type Seen = Arc<Mutex<Vec<String>>>;

    fn step(name: &'static str, seen: &Seen) -> Step {
        let (forward, backward) = (Arc::clone(seen), Arc::clone(seen));
        Step::new(name)
            .forward(move |given| async move {
                forward.lock().unwrap().push(format!("{name}({})", given.previous.unwrap_or_default()));
                Ok(json!(name))
            })
            .backward(move |result| async move {
                backward.lock().unwrap().push(format!("undo {name}({result})"));
                Ok(())
            })
    }

    fn failing(name: &'static str) -> Step {
        Step::new(name)
            .forward(move |_| async move { Err(failed(&format!("{name} failed"))) })
            .backward(|_| async { panic!("the failing step's own undoing is not called") })
    }

    async fn run(steps: Vec<Step>) -> Ran {
        execute(steps, &CancellationToken::new().into()).await
    }

    fn message(ran: &Ran) -> &str {
        &ran.result.as_ref().unwrap_err().error.message
    }

    #[tokio::test]
    async fn t_p1_a_step_sees_what_it_was_made_with_and_its_result_is_the_whole() {
        let given = ["hello".to_owned()];
        let only = Step::new("greet").forward(move |_| async move { Ok(json!(given[0])) });
        assert_eq!(run(vec![only]).await.result, Ok(json!("hello")));
    }

    #[tokio::test]
    async fn t_p2_a_failure_undoes_those_before_and_not_itself() {
        let seen = Seen::default();
        let ran = run(vec![step("a", &seen), failing("b"), step("c", &seen)]).await;
        assert_eq!((message(&ran), ran.undone), ("b failed", true));
        assert_eq!(*seen.lock().unwrap(), ["a(null)", "undo a(\"a\")"]);
        let taken: Vec<&str> = ran.taken.iter().map(|taken| taken.step.as_str()).collect();
        assert_eq!(taken, ["a", "b", "undo a"]);
    }

    #[tokio::test]
    async fn t_p3_a_step_that_cannot_be_undone_is_passed_over() {
        let seen = Seen::default();
        let lasting = Step::new("b").forward(|_| async { Ok(json!(1)) });
        let ran = run(vec![step("a", &seen), lasting, failing("c")]).await;
        assert_eq!(message(&ran), "c failed");
        assert_eq!(seen.lock().unwrap().last().unwrap(), "undo a(\"a\")");
    }

    #[tokio::test]
    async fn t_p4_nothing_to_do_is_an_error() {
        assert_eq!(message(&run(vec![]).await), "No actions to execute.");
    }

    #[tokio::test]
    async fn t_p5_a_step_without_a_forward_function_is_a_failure() {
        // That a step lacks its parameters cannot be written down here: it is made with them.
        let seen = Seen::default();
        let ran = run(vec![step("a", &seen), Step::new("b")]).await;
        assert_eq!(message(&ran), "All actions must define the forward function.");
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn t_p6_each_step_is_given_the_result_before() {
        let seen = Seen::default();
        let ran = run(vec![step("a", &seen), step("b", &seen), step("c", &seen)]).await;
        assert_eq!(*seen.lock().unwrap(), ["a(null)", "b(\"a\")", "c(\"b\")"]);
        assert_eq!(ran.result, Ok(json!("c")));
    }

    #[tokio::test]
    async fn t_p7_each_run_undoes_with_its_own_results() {
        let undone = Seen::default();
        let run_of = |number: usize| {
            let undone = Arc::clone(&undone);
            let counted = Step::new("count").forward(move |_| async move { Ok(json!(number)) }).backward(
                move |result| async move {
                    assert_eq!(result, json!(number));
                    undone.lock().unwrap().push(result.to_string());
                    Ok(())
                },
            );
            let wait = Step::new("wait").forward(|_| async {
                tokio::task::yield_now().await;
                Err(failed("enough"))
            });
            run(vec![counted, wait])
        };
        futures::future::join_all((0..20).map(run_of)).await;
        assert_eq!(undone.lock().unwrap().len(), 20);
    }

    #[tokio::test]
    async fn t_p8_a_failing_undo_is_told_with_what_failed_first() {
        let stuck = Step::new("a")
            .forward(|_| async { Ok(json!(1)) })
            .backward(|_| async { Err(ItemError::new(Code::Cluster, "it is stuck")) });
        let seen = Seen::default();
        let ran = run(vec![step("z", &seen), stuck, failing("b")]).await;
        assert_eq!(message(&ran), "b failed; and undoing a failed, too: it is stuck");
        assert!(!ran.undone);
        assert_eq!(seen.lock().unwrap().last().unwrap(), "undo z(\"z\")", "the others are undone");
    }

    #[tokio::test]
    async fn t_p9_cancelling_undoes_to_the_end() {
        let (seen, token) = (Seen::default(), CancellationToken::new());
        let cancel = token.clone();
        let cancelled = Step::new("b").forward(move |given| async move {
            cancel.cancel();
            given.asker.gone().await;
            Err(Stop::new(Verdict::Failed, Code::Cancelled, "cancelled by its caller"))
        });
        let ran = execute(vec![step("a", &seen), cancelled, step("c", &seen)], &token.clone().into()).await;
        assert_eq!(ran.result.unwrap_err().error.code, Code::Cancelled);
        assert_eq!(*seen.lock().unwrap(), ["a(null)", "undo a(\"a\")"]);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let seen = Seen::default();
        let ran = run(vec![step("a", &seen), Step::new("b").forward(|_| async { panic!("oops") })]).await;
        assert!(message(&ran).contains("panicked"));
        assert_eq!(seen.lock().unwrap().last().unwrap(), "undo a(\"a\")");
    }
}
