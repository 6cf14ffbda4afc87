"""Plants bugs, one after the other, in a copy of what is committed, and has the simulations find each.

A judge that never condemns is no judge: the output says with which seed each bug was found. `make planted`
plants all; words behind the script's name choose among the bugs. docs/testing.md has the seeds.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COPY = REPOSITORY / "target" / "planted"
WORLDS = "1000"
CUTS = "3000"
# The simulations: a package, and the test in it.
SERVICES = ("lonja-simulation", "every_world_of_services")
ONE_PROCESS = ("lonja-simulation", "every_world_of_one_process")
JOURNAL = ("lonja-journal", "simulation::worlds::what_was")

# What goes wrong, which simulation finds it, the file, what stands there, and what is planted in its place.
BUGS = [
    ("a commit is answered before it is synced", JOURNAL, "crates/journal/src/segment.rs",
     "self.file.sync_data()?;\n        self.failed = false;", "self.failed = false;"),
    ("a frame that failed is left behind", JOURNAL, "crates/journal/src/wal.rs",
     " && !self.current.must_go_on()", ""),
    ("rows are read before the commit is written", JOURNAL, "crates/journal/src/writer.rs",
     "participants.iter_mut().rev().for_each(|participant| participant.fail(&error));",
     "participants.iter_mut().for_each(|log| { log.publish(); log.answer(); });"),
    ("a session that has ended takes files", SERVICES, "services/catalog/src/store/embedded.rs",
     "_ if ended => return Err(Reason::SessionEnded),", ""),
    ("an audit batch is sent again under new numbers", SERVICES, "crates/recorder/src/lib.rs",
     'Err(_) => self.out_of_reach("the service does not answer"),',
     'Err(_) => { self.stored += count as u64; self.out_of_reach("the service does not answer") }'),
    ("a record that is late is taken for stored", SERVICES, "crates/recorder/src/lib.rs",
     'Err(_) => self.out_of_reach("the service does not answer"),',
     "Err(_) => { self.delivered(count); true }"),
    ("the revision of the sessions is not bumped", SERVICES, "services/registry/src/store/embedded/state.rs",
     "self.next_order = self.next_order.max(opened.order + 1);\n        self.session_changes += 1;",
     "self.next_order = self.next_order.max(opened.order + 1);"),
    ("a call that may have been carried out is sent again", SERVICES, "crates/rpc/src/batch/conversation.rs",
     "&& kept.exchange(request.clone(), held, deliver).await?",
     "&& kept.exchange(request.clone(), held, deliver).await.unwrap_or(false)"),
    ("a registration that failed is answered with success", SERVICES, "services/gateway/src/operations.rs",
     "companion.with(self.backend.registry.register_user(request)).await?;",
     "let _ = companion.with(self.backend.registry.register_user(request)).await;"),
    ("a request waits for the audit for ever", SERVICES, "services/gateway/src/connection.rs",
     "time::timeout_at(deadline, self.recorder.record(record(request, peer, status, dialect))).await;",
     "(deadline, self.recorder.record(record(request, peer, status, dialect)).await);"),
    ("a file that nobody has published has an owner", SERVICES, "services/gateway/src/operations.rs",
     " && !self.has_published(&first.session_id, second).await?", ""),
    ("nobody sweeps", SERVICES, "services/gateway/src/sweeper.rs",
     "match shutdown.run_until_cancelled(sweep(&backend)).await {",
     "let _ = sweep;\n        match shutdown.run_until_cancelled(async { let _ = &backend; Ok::<u64, Status>(0) }).await {"),
    ("a record whose commit fails is lost", ONE_PROCESS, "crates/recorder/src/lib.rs",
     "recorder.queue(kept, None);", "let _ = (&recorder, &kept);"),
    ("a failed commit is recorded as a success", ONE_PROCESS, "crates/recorder/src/lib.rs",
     "kept.status = if_failed;", "let _ = if_failed;"),
    ("records overtake those that wait for delivery", ONE_PROCESS, "crates/recorder/src/lib.rs",
     "self.ledger.is_some() && self.shared.queue.lock().waiting.is_empty()", "self.ledger.is_some()"),
    ("a record that went with its change is recorded again", ONE_PROCESS, "services/gateway/src/companion.rs",
     "witness.is_held() || pending.record.lock().take().is_none()",
     "witness.is_held() && pending.record.lock().take().is_none()"),
    ("a record of a change that is decided late says failure", ONE_PROCESS, "services/gateway/src/companion.rs",
     "witness.is_held() || pending.record.lock().take().is_none()",
     "{ let _ = witness.is_held(); pending.record.lock().take().is_none() }"),
]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    shared = {**os.environ, "CARGO_TARGET_DIR": str(REPOSITORY / "target" / "planted-build"), **environment}
    return subprocess.run(command, cwd=COPY, env=shared, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def simulate(simulation: tuple[str, str]) -> subprocess.CompletedProcess:
    package, test = simulation
    return run("cargo", "test", "--release", "--quiet", "--package", package, "--lib", "--", test,
               LONJA_WORLDS=WORLDS, LONJA_CUTS=CUTS)


def main() -> None:
    chosen = [bug for bug in BUGS if all(word in bug[0] for word in sys.argv[1:])]
    if COPY.exists():
        shutil.rmtree(COPY)
    subprocess.run(["git", "clone", "--quiet", "--shared", str(REPOSITORY), str(COPY)], check=True)
    for simulation in {simulation for _, simulation, *_ in chosen}:
        without = simulate(simulation)
        if without.returncode != 0:
            sys.exit(f"{simulation[1]} fails without any bug:\n{without.stdout[-4000:]}")
    missed = []
    for what, simulation, path, before, after in chosen:
        file = COPY / path
        text = file.read_text()
        if before not in text:
            sys.exit(f"{path} has changed: {what!r} cannot be planted. Its place is in {Path(__file__).name}")
        file.write_text(text.replace(before, after, 1))
        found = simulate(simulation)
        file.write_text(text)
        if "error: could not compile" in found.stdout:
            sys.exit(f"{what}: does not compile\n{found.stdout}")
        seed = re.search(r"LONJA_SEED=(\d+)", found.stdout)
        why = re.search(r"panicked at [^\n]*\n([^\n]*)", found.stdout)
        if found.returncode == 0 or not seed:
            missed.append(what)
            print(f"MISSED: {what}\n{found.stdout[-2000:]}", flush=True)
        else:
            print(f"{what}: seed {seed[1]}: {why[1][:120] if why else ''}", flush=True)
    if missed:
        sys.exit(f"{len(missed)} of {len(chosen)} bugs were not found")


if __name__ == "__main__":
    main()
