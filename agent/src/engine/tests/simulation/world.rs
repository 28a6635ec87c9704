//! A host that outlives its agents, and managers that work on it: what each of their steps comes to follows from the seed.

use super::{super::*, Random};

/// How a thing of the host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// Its making was begun, and not ended.
    Half,
    Up,
    Paused,
    /// The host was started anew.
    Down,
}

/// What the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) definition: bytes::Bytes,
    pub(super) stands: Stands,
}

#[derive(Debug, Default)]
struct Host {
    made: BTreeMap<String, Made>,
    /// How often each step was taken, for the next time may come out otherwise.
    taken: BTreeMap<(String, &'static str), u64>,
    /// Nothing fails any more.
    calm: bool,
}

/// The host. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct World {
    host: Arc<Mutex<Host>>,
    seed: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self { host: Arc::default(), seed }
    }

    /// All that there is, by resource.
    pub(super) fn made(&self) -> BTreeMap<String, Made> {
        self.host.lock().unwrap().made.clone()
    }

    /// Everything stops, as when the host is started anew.
    pub(super) fn reboot(&self) {
        for made in self.host.lock().unwrap().made.values_mut() {
            if made.stands == Stands::Up {
                made.stands = Stands::Down;
            }
        }
    }

    /// Something goes that nobody took down.
    pub(super) fn lose_one(&self, random: &mut Random) {
        let mut host = self.host.lock().unwrap();
        let count = u64::try_from(host.made.len()).unwrap();
        let lost = (count > 0).then(|| random.below(count)).map(|index| usize::try_from(index).unwrap());
        let lost = lost.and_then(|index| host.made.keys().nth(index).cloned());
        lost.into_iter().for_each(|lost| drop(host.made.remove(&lost)));
    }

    /// From here on every step is done.
    pub(super) fn calm_down(&self) {
        self.host.lock().unwrap().calm = true;
    }

    pub(super) fn managers(&self) -> Registry {
        let of = |kind| Arc::new(Maker { kind, world: self.clone() }) as Arc<dyn Manager>;
        Registry::new(vec![of("Volume"), of("Thing")])
    }

    /// What this step comes to this time: the same for the same seed, whatever else goes on meanwhile.
    fn fate(&self, step: &'static str, work: &Work) -> u64 {
        let mut host = self.host.lock().unwrap();
        let times = host.taken.entry((work.resource.to_string(), step)).or_default();
        *times += 1;
        let text = format!("{} {} {step} {times}", self.seed, work.resource);
        let fate = u64::from(blake3::hash(text.as_bytes()).as_bytes()[0]);
        if host.calm { 255 } else { fate }
    }

    /// A step that does `change`, or not.
    fn step(
        &self,
        name: &'static str,
        work: &Work,
        change: impl FnOnce(&mut BTreeMap<String, Made>) + Send + 'static,
    ) -> Step {
        let (world, work) = (self.clone(), work.clone());
        Step::new(name).forward(move |given| async move {
            let failed = |verdict| Err(Stop::new(verdict, Code::Cluster, format!("{name} fails")));
            match world.fate(name, &work) {
                0..20 => return failed(Verdict::Failed),
                20..24 => return failed(Verdict::Unchanged),
                24..26 => panic!("{name} panics"),
                26..50 => tokio::time::sleep(Duration::from_millis(3)).await,
                50..56 => {
                    // Until someone loses patience with it.
                    drop(tokio::time::timeout(Duration::from_millis(20), given.asker.gone()).await);
                }
                56..100 => tokio::task::yield_now().await,
                _ => {}
            }
            change(&mut world.host.lock().unwrap().made);
            Ok(json!({"by": name}))
        })
    }

    /// Undoes a step with `change`; also that may fail.
    fn undone_by(
        &self,
        step: Step,
        work: &Work,
        change: impl FnOnce(&mut BTreeMap<String, Made>) + Send + 'static,
    ) -> Step {
        let (world, work) = (self.clone(), work.clone());
        step.backward(move |_| async move {
            if world.fate("undo", &work) < 25 {
                return Err(towline_protocol::ItemError::new(Code::Cluster, "undoing fails"));
            }
            change(&mut world.host.lock().unwrap().made);
            Ok(())
        })
    }
}

/// Makes things of one kind.
#[derive(Debug)]
struct Maker {
    kind: &'static str,
    world: World,
}

fn up(work: &Work) -> (String, Made) {
    (work.resource.to_string(), Made { definition: work.definition.clone(), stands: Stands::Up })
}

#[async_trait]
impl Manager for Maker {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn read(&self, document: &[u8]) -> Result<Traits, Vec<Complaint>> {
        read_kind(document, self.kind, |fields| Some(fields.get("size").number(0..=u32::MAX).is_some()))
            .map(|_| Traits::default())
    }

    fn can_update(&self) -> bool {
        self.kind == "Thing"
    }

    fn provision(&self, work: Work) -> Vec<Step> {
        let (key, made) = up(&work);
        let (half, taken) = (Made { stands: Stands::Half, ..made.clone() }, key.clone());
        let begin = self.world.step("begin", &work, move |host| {
            host.entry(taken).or_insert(half);
        });
        // What was there before is not its own to take away.
        let (was_there, gone) = (self.world.made().contains_key(&key), key.clone());
        let begin = self.world.undone_by(begin, &work, move |host| {
            if !was_there {
                host.remove(&gone);
            }
        });
        vec![begin, self.world.step("make", &work, move |host| drop(host.insert(key, made)))]
    }

    fn update(&self, work: Work, before: Work) -> Vec<Step> {
        let ((key, made), (old, was)) = (up(&work), up(&before));
        let change = self.world.step("change", &work, move |host| drop(host.insert(key, made)));
        let change = self.world.undone_by(change, &work, move |host| drop(host.insert(old, was)));
        vec![change, self.world.step("look at the change", &work, |_| {})]
    }

    fn deprovision(&self, work: Work) -> Vec<Step> {
        let key = work.resource.to_string();
        vec![self.world.step("remove", &work, move |host| drop(host.remove(&key)))]
    }

    fn pause(&self, work: Work) -> Option<Vec<Step>> {
        let key = work.resource.to_string();
        let stop = move |host: &mut BTreeMap<String, Made>| {
            host.entry(key).and_modify(|made| made.stands = Stands::Paused);
        };
        (self.kind == "Thing").then(|| vec![self.world.step("pause", &work, stop)])
    }

    fn resume(&self, work: Work) -> Option<Vec<Step>> {
        (self.kind == "Thing").then(|| self.provision(work))
    }

    async fn observe(&self, works: Vec<Work>) -> Vec<Seen> {
        let look = |work: &Work| {
            let (key, made) = up(work);
            let drift = (self.world.made().get(&key) != Some(&made)).then(|| "it is otherwise".to_owned());
            let mend = if drift.is_some() { manager::Mend::Engine } else { manager::Mend::Nobody };
            Seen { status: ServiceStatus::Ready, reason: None, units: Vec::new(), mend, drift }
        };
        works.iter().map(look).collect()
    }

    /// What a deletion by force left is removed by the next agent.
    async fn clean_up(&self, known: Arc<manager::Known>) -> Vec<String> {
        let of_kind = |key: &String| key.split('/').nth(1) == Some(self.kind);
        let made: Vec<String> = self.world.made().keys().filter(|key| of_kind(key)).cloned().collect();
        let mut left = Vec::new();
        for key in made {
            let resource = key.parse().unwrap();
            if !known.listed(&resource) && !known.now(&resource) {
                self.world.host.lock().unwrap().made.remove(&key);
                left.push(key);
            }
        }
        left
    }
}
