//! `kelson-shim dns RECORD`: names of one network, for the containers in it.
//!
//! ```text
//! mod (the record, read again when it changes; the state) ► member (a container's sockets)
//!                                          table (questions → answers, pure) ◄─┴─► upstream ► netns
//! ```
//! Everything it needs is in files, so it depends on nobody being alive, and one that was killed is started again
//! as the first one was.
mod member;
mod netns;
mod table;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kelson_shim_proto::FORMAT;
use kelson_shim_proto::names::{Listener, Names, Served, State};
use rustix::fs::{FlockOperation, flock, inotify};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::bootstrap::{ready, tell};
use crate::error::{Doing, Error, Kind, Result};
use member::Member;
use table::{View, Zone};

/// The largest record that is read.
const MAX_RECORD: u64 = 64 << 20;

/// Serves the network whose record is at `record`, until that is removed.
///
/// # Errors
/// It could not be set up (the ready line tells why), or its directory cannot be watched any more.
pub fn run(record: &Path) -> Result<()> {
    let set_up = || -> Result<_> {
        let files = Files::of(record)?;
        let held = files.lock()?;
        let _ = rustix::process::setsid();
        std::env::set_current_dir("/").doing(|| "change to /".to_owned())?;
        more_descriptors();
        let reactor = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(|| "start the reactor".to_owned())?;
        Ok((files, held, reactor))
    };
    let (files, _held, reactor) = set_up().map_err(tell)?;
    reactor.block_on(serve(&files))
}

/// Every container costs three.
fn more_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

async fn serve(files: &Files) -> Result<()> {
    // Watched before it is read: no change falls in between.
    let watch = Watch::new(&files.directory).map_err(tell)?;
    let mut resolver = Resolver::default();
    if !resolver.read(files).await.map_err(tell)? {
        return Err(tell(Error::new(
            Kind::NotFound,
            format!("{}: no such record", files.record.display()),
        )));
    }
    files.save(&resolver.state)?;
    ready(None);
    loop {
        tokio::select! {
            changed = watch.changed() => changed?,
            () = resolver.over.notified() => resolver.let_go(),
        }
        match resolver.read(files).await {
            Ok(true) => resolver.state.error = None,
            Ok(false) => {
                files.forget();
                return Ok(());
            }
            // What was served goes on.
            Err(error) => resolver.state.error = Some(error.to_string()),
        }
        files.save(&resolver.state)?;
    }
}

/// Files of one network.
struct Files {
    directory: PathBuf,
    id: String,
    record: PathBuf,
    state: PathBuf,
}

impl Files {
    fn of(record: &Path) -> Result<Self> {
        let invalid = |text: &str| Error::new(Kind::Invalid, format!("{}: {text}", record.display()));
        if !record.is_absolute() {
            return Err(invalid("not an absolute path"));
        }
        let id = record.file_name().and_then(OsStr::to_str);
        let id = id.and_then(|name| name.strip_suffix(".json"));
        let (Some(id), Some(directory)) = (id, record.parent()) else {
            return Err(invalid("not the record of a network, ID.json"));
        };
        Ok(Self {
            directory: directory.to_owned(),
            id: id.to_owned(),
            record: record.to_owned(),
            state: record.with_extension("state"),
        })
    }

    /// One resolver for one network, whoever starts a second one.
    fn lock(&self) -> Result<File> {
        let path = self.record.with_extension("lock");
        let doing = || format!("lock {}", path.display());
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .doing(doing)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
                Kind::AlreadyExists,
                format!("{}: another resolver serves it", self.record.display()),
            )),
            Err(error) => Err(error).doing(doing),
        }
    }

    fn save(&self, state: &State) -> Result<()> {
        let doing = || format!("write {}", self.state.display());
        let new = self.record.with_extension("state.new");
        let text = serde_json::to_vec(state)
            .map_err(std::io::Error::from)
            .doing(doing)?;
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.state))
            .doing(doing)
    }

    fn forget(&self) {
        for end in ["state", "lock"] {
            let _ = std::fs::remove_file(self.record.with_extension(end));
        }
    }

    /// `None` if there is no such record.
    fn names(&self, id: &str) -> Result<Option<Names>> {
        let plain = !id.is_empty() && !id.contains('/');
        let path = self.directory.join(format!("{id}.json"));
        let doing = || format!("read {}", path.display());
        let invalid = |text: String| Error::new(Kind::Invalid, format!("{}: {text}", doing()));
        if !plain {
            return Err(invalid("not the id of a network".to_owned()));
        }
        let size = match std::fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).doing(doing),
        };
        if size > MAX_RECORD {
            return Err(invalid(format!("longer than {MAX_RECORD} bytes")));
        }
        let text = std::fs::read(&path).doing(doing)?;
        Names::decode(&text).map(Some).map_err(invalid)
    }
}

struct Resolver {
    members: HashMap<String, Member>,
    state: State,
    /// Some member has ended.
    over: Arc<Notify>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            state: State {
                format: FORMAT,
                pid: std::process::id(),
                generation: 0,
                error: None,
                listeners: BTreeMap::new(),
            },
            over: Arc::default(),
        }
    }
}

impl Resolver {
    /// Makes what is served be what the record says; false if there is none any more.
    async fn read(&mut self, files: &Files) -> Result<bool> {
        let Some(names) = files.names(&files.id)? else {
            return Ok(false);
        };
        let mut zones = HashMap::from([(files.id.clone(), Arc::new(Zone::new(&names)))]);
        let mut wanted: Vec<(String, Listener)> = Vec::new();
        for endpoint in names.endpoints {
            if let Some(listener) = endpoint.listener {
                for id in &listener.networks {
                    if !zones.contains_key(id)
                        && let Some(other) = files.names(id)?
                    {
                        zones.insert(id.clone(), Arc::new(Zone::new(&other)));
                    }
                }
                wanted.push((endpoint.id, listener));
            }
        }
        let kept: HashMap<&str, &Listener> =
            wanted.iter().map(|(id, record)| (id.as_str(), record)).collect();
        self.members.retain(|id, member| {
            kept.get(id.as_str())
                .is_some_and(|new| same_place(new, &member.record))
        });
        self.state.listeners.clear();
        for (id, listener) in wanted {
            let others = listener.networks.iter().filter_map(|other| zones.get(other));
            let seen = zones.get(&files.id).into_iter().chain(others).cloned().collect();
            let view = View::new(seen, &listener.links, listener.upstreams.clone());
            let served = self.serve(&id, listener, view).await;
            self.state.listeners.insert(
                id,
                served.unwrap_or_else(|error| Served::Error(error.to_string())),
            );
        }
        self.state.generation = names.generation;
        Ok(true)
    }

    async fn serve(&mut self, id: &str, listener: Listener, view: View) -> Result<Served> {
        if let Some(member) = self.members.get_mut(id) {
            member.see(view);
            member.record = listener;
            return Ok(member.served());
        }
        let member = Member::start(listener, view, Arc::clone(&self.over)).await?;
        let served = member.served();
        self.members.insert(id.to_owned(), member);
        Ok(served)
    }

    /// Closes what belongs to containers that ended.
    fn let_go(&mut self) {
        self.members.retain(|_, member| !member.is_over());
    }
}

/// Whether a listener can stay as it is.
fn same_place(new: &Listener, old: &Listener) -> bool {
    (&new.netns, new.inode, new.port, new.pid) == (&old.netns, old.inode, old.port, old.pid)
}

/// Tells that a record in a directory was replaced or removed.
struct Watch {
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    #[allow(
        deprecated,
        reason = "the successor is unsafe for types that may change their descriptor; this one never does"
    )]
    fn new(directory: &Path) -> Result<Self> {
        use inotify::{CreateFlags, WatchFlags};
        let doing = || format!("watch {}", directory.display());
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).doing(doing)?;
        let flags =
            WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
        inotify::add_watch(&events, directory, flags | WatchFlags::ONLYDIR).doing(doing)?;
        let events = AsyncFd::new(events).doing(doing)?;
        Ok(Self { events })
    }

    async fn changed(&self) -> Result<()> {
        let doing = || "watch for changes of names".to_owned();
        loop {
            let mut guard = self.events.readable().await.doing(doing)?;
            let mut space = [std::mem::MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.events.get_ref(), &mut space);
            let mut record = false;
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(std::ffi::CStr::to_bytes);
                        // No name: events were lost, or the directory is.
                        record |= name.is_none_or(|name| name.ends_with(b".json"));
                    }
                    Err(rustix::io::Errno::WOULDBLOCK) => break,
                    Err(error) => return Err(error).doing(doing),
                }
            }
            guard.clear_ready();
            if record {
                return Ok(());
            }
        }
    }
}
