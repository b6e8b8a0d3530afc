//! What happened to a task, as containerd's event stream has it (`containerd.events`, api/events/task.proto).
use crate::task::Mount;
use crate::time::Time;
use crate::wire::Writer;

/// The ttrpc service that takes events, and its method.
pub const FORWARD: (&str, &str) = ("containerd.services.events.ttrpc.v1.Events", "Forward");

/// One event about the task of container `id`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The container.
    pub id: String,
    /// What happened to it.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields have containerd's names")]
pub enum What {
    Create(Box<Create>),
    Start {
        pid: u32,
    },
    ExecAdded {
        exec_id: String,
    },
    ExecStarted {
        exec_id: String,
        pid: u32,
    },
    /// `process` is the exec's id, or the container's for its first process.
    Exit {
        process: String,
        pid: u32,
        status: u32,
        at: Time,
    },
    Delete {
        pid: u32,
        status: u32,
        at: Time,
    },
    Paused,
    Resumed,
    Checkpointed {
        checkpoint: String,
    },
    Oom,
}

/// A task that was made.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields have containerd's names")]
pub struct Create {
    pub bundle: String,
    pub rootfs: Vec<Mount>,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    pub checkpoint: String,
    pub pid: u32,
}

impl Event {
    /// The topic it is published under, and its message's type.
    #[must_use]
    pub fn topic_and_type(&self) -> (&'static str, &'static str) {
        match self.what {
            What::Create(_) => ("/tasks/create", "containerd.events.TaskCreate"),
            What::Start { .. } => ("/tasks/start", "containerd.events.TaskStart"),
            What::ExecAdded { .. } => ("/tasks/exec-added", "containerd.events.TaskExecAdded"),
            What::ExecStarted { .. } => ("/tasks/exec-started", "containerd.events.TaskExecStarted"),
            What::Exit { .. } => ("/tasks/exit", "containerd.events.TaskExit"),
            What::Delete { .. } => ("/tasks/delete", "containerd.events.TaskDelete"),
            What::Paused => ("/tasks/paused", "containerd.events.TaskPaused"),
            What::Resumed => ("/tasks/resumed", "containerd.events.TaskResumed"),
            What::Checkpointed { .. } => ("/tasks/checkpointed", "containerd.events.TaskCheckpointed"),
            What::Oom => ("/tasks/oom", "containerd.events.TaskOOM"),
        }
    }

    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(1, &self.id);
        match &self.what {
            What::Create(create) => create.write(&mut out),
            What::Start { pid } => {
                out.uint(2, *pid);
            }
            What::ExecAdded { exec_id } => {
                out.bytes(2, exec_id);
            }
            What::ExecStarted { exec_id, pid } => {
                out.bytes(2, exec_id).uint(3, *pid);
            }
            What::Exit {
                process,
                pid,
                status,
                at,
            } => {
                out.bytes(2, process).uint(3, *pid).uint(4, *status).time(5, *at);
            }
            What::Delete { pid, status, at } => {
                out.uint(2, *pid).uint(3, *status).time(4, *at);
            }
            What::Checkpointed { checkpoint } => {
                out.bytes(2, checkpoint);
            }
            What::Paused | What::Resumed | What::Oom => {}
        }
        out.finish()
    }

    /// The request of [`FORWARD`] that publishes it in `namespace`.
    #[must_use]
    pub fn forward_request(&self, namespace: &str, at: Time) -> Vec<u8> {
        let (topic, type_url) = self.topic_and_type();
        let mut out = Writer::default();
        out.message(1, |envelope| {
            envelope
                .time(1, at)
                .bytes(2, namespace)
                .bytes(3, topic)
                .any(4, type_url, &self.encode());
        });
        out.finish()
    }

    /// The `google.protobuf.Any` that `containerd publish` reads on its stdin.
    #[must_use]
    pub fn any(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(1, self.topic_and_type().1).bytes(2, self.encode());
        out.finish()
    }
}

impl Create {
    fn write(&self, out: &mut Writer) {
        out.bytes(2, &self.bundle);
        for mount in &self.rootfs {
            out.message(3, |message| {
                message
                    .bytes(1, &mount.type_)
                    .bytes(2, &mount.source)
                    .bytes(3, &mount.target);
                for option in &mount.options {
                    message.element(4, option);
                }
            });
        }
        out.message(4, |io| {
            io.bytes(1, &self.stdin)
                .bytes(2, &self.stdout)
                .bytes(3, &self.stderr)
                .uint(4, self.terminal);
        });
        out.bytes(5, &self.checkpoint).uint(6, self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::read;

    #[test]
    fn an_exit_in_its_envelope() {
        let event = Event {
            id: "c".into(),
            what: What::Exit {
                process: "e".into(),
                pid: 7,
                status: 137,
                at: Time { secs: 5, nanos: 6 },
            },
        };
        assert_eq!(
            event.encode(),
            b"\x0a\x01c\x12\x01e\x18\x07\x20\x89\x01\x2a\x04\x08\x05\x10\x06"
        );
        let mut fields = Vec::new();
        let request = event.forward_request("ns", Time { secs: 1, nanos: 0 });
        read(&request, |field, value| {
            assert_eq!(field, 1);
            read(value.bytes(), |field, value| {
                fields.push((field, value.bytes().to_vec()))
            })
            .unwrap();
        })
        .unwrap();
        assert_eq!(fields[0], (1, b"\x08\x01".to_vec()));
        assert_eq!(fields[1], (2, b"ns".to_vec()));
        assert_eq!(fields[2], (3, b"/tasks/exit".to_vec()));
        let any = crate::wire::read_any(&fields[3].1).unwrap();
        assert_eq!(any, ("containerd.events.TaskExit".to_owned(), event.encode()));
    }

    #[test]
    fn a_create_with_its_root() {
        let create = Create {
            bundle: "/b".into(),
            rootfs: vec![Mount {
                type_: "bind".into(),
                options: vec!["ro".into(), String::new()],
                ..Mount::default()
            }],
            terminal: true,
            pid: 3,
            ..Create::default()
        };
        let event = Event {
            id: "c".into(),
            what: What::Create(Box::new(create)),
        };
        assert_eq!(
            event.encode(),
            b"\x0a\x01c\x12\x02/b\x1a\x0c\x0a\x04bind\x22\x02ro\x22\x00\x22\x02\x20\x01\x30\x03"
        );
    }
}
