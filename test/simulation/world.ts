/**
 * A few hosts, one domain that moves among them, a bad network and bad power; all of it from one seed.
 *
 * Real: both state machines, the generation log and the ladder, the tracked and missing stores with their logs.
 * Simulated: network, disks, hypervisors, journals, guest, and the two drivers.
 *
 * Faults: message latency and stalls, sessions that break at any moment with everything in flight, slow disk
 * operations that overlap and tear, answers that come late and in any order, daemons killed and hosts losing
 * their power between any two effects or system calls, disks and hypervisors that fail at the destination,
 * operators who cancel.
 *
 * Checked at every event: at most one host runs the domain, and only the one whose journal owns the highest
 * generation. Checked at every answer: a read returns what was written. Checked at every handover: all is
 * durable, and the memory that resumes is the memory that was frozen. Checked at the end of every migration:
 * the vbds are equal but for what was written since, the replica left behind is intact, and when nothing
 * disturbed it, exactly the changed blocks travelled. Checked when the faults have stopped: everything comes to
 * an end, the domain runs on one host, and nothing is left of it, or in the journals, on the others.
 */

import * as destinationMachine from "../../protocol/destination.ts";
import type { HostId, MigrationId } from "../../protocol/messages.ts";
import * as sourceMachine from "../../protocol/source.ts";
import { Clock } from "./clock.ts";
import { Daemon, Host, type Surroundings } from "./daemon.ts";
import { DestinationDriver } from "./destination-driver.ts";
import { SECTOR_BYTES } from "./disk.ts";
import { initialTokens, sourceContext } from "./domain.ts";
import { ContentModel, encodeSectors, type Token } from "./guest.ts";
import { SimHypervisor } from "./hypervisor.ts";
import { Invariants } from "./invariants.ts";
import { Journal } from "./journal.ts";
import { type NetworkFaults, SessionEnd } from "./network.ts";
import { drawOptions, type Options } from "./options.ts";
import { Prng } from "./prng.ts";
import { Process } from "./process.ts";
import { SourceDriver, type SourceSession } from "./source-driver.ts";
import { createDirtyLogs, GuestVbds, imageOf, makeImages } from "./vbds.ts";
import { Verdict } from "./verdict.ts";
import { checkRead, Workload } from "./workload.ts";

const MS_PER_HOP_MAX = 60_000;
const FORGETTING_MS_MAX = 60_000;

export type Outcome = {
  completed: number;
  aborted: number;
  crashes: number;
  virtualMs: number;
  events: number;
};

export type WorldOptions = { verbose?: boolean; options?: Partial<Options> };

export class World {
  readonly seed: number;
  readonly options: Options;
  readonly transcript: string[] = [];
  readonly #isVerbose: boolean;
  readonly #clock = new Clock();
  readonly #prng: Prng;
  readonly #hosts: Host[];
  readonly #model: ContentModel;
  readonly #workload: Workload;
  readonly #around: Surroundings;
  readonly #sessions = new Set<SessionEnd<never, never>>();
  readonly #networkFaults: NetworkFaults;
  readonly #invariants: Invariants;
  #migrations = 0;
  #sessionsMade = 0;
  #failure: Verdict | undefined;
  #stalledUntilMs = 0;
  /** All migrations are over: no more harm is done, and what is left is checked. */
  #isOver = false;
  readonly #outcome: Outcome = { completed: 0, aborted: 0, crashes: 0, virtualMs: 0, events: 0 };

  /** `options`: instead of what the seed would draw. */
  constructor(seed: number, { verbose = false, options: fixed }: WorldOptions = {}) {
    this.seed = seed;
    this.#isVerbose = verbose;
    this.#prng = new Prng(seed);
    const options = { ...drawOptions(this.#prng, new Prng(~seed)), ...fixed };
    this.options = options;
    const tokens = options.sizes.map((sizeBytes) => initialTokens(this.#prng, sizeBytes));
    this.#model = new ContentModel(tokens);
    this.#workload = new Workload({
      clock: this.#clock,
      prng: this.#prng,
      options,
      model: this.#model,
      wrong: (what) => this.#wrong(what),
      log: (who, what) => this.#log(who, what),
    });
    this.#hosts = Array.from({ length: options.hosts }, (_, index) => this.#makeHost("ABC"[index]!));
    this.#invariants = new Invariants({
      hosts: this.#hosts,
      model: this.#model,
      wrong: (what) => this.#wrong(what),
    });
    this.#networkFaults = {
      ...options.network,
      memoryDelayMsMax: options.memoryDelayMsMax,
      breakingPerMille: () => (this.#isCalm ? 0 : options.network.breakingPerMille),
      stallMs: () => Math.max(0, this.#stalledUntilMs - this.#clock.now),
    };
    this.#around = this.#makeSurroundings();
    this.#makeDomain(this.#hosts[0]!, tokens);
    this.#schedule();
  }

  /** Runs to the end. Throws a `Verdict`. */
  async run(): Promise<Outcome> {
    const limitMs = this.options.calmAtMs + this.options.hops * MS_PER_HOP_MAX + FORGETTING_MS_MAX;
    try {
      await this.#runUntil(() => this.#hasEnded(), limitMs);
      this.#isOver = true;
      this.#workload.rest();
      await this.#runUntil(() => this.#workload.isQuiet, limitMs);
      await this.#checkContent(limitMs);
      this.#checkLeftovers();
    } catch (error) {
      throw error instanceof Verdict ? error : new Verdict("crash", error);
    }
    this.#outcome.virtualMs = this.#clock.now;
    return this.#outcome;
  }

  async #runUntil(done: () => boolean, limitMs: number): Promise<void> {
    await settled();
    while (!done()) {
      const action = this.#clock.next();
      if (action === undefined) throw new Verdict("stuck", "nothing is scheduled", this.#standing());
      if (this.#clock.now > limitMs) throw new Verdict("stuck", "no end in sight", this.#standing());
      action();
      await settled();
      this.#outcome.events += 1;
      this.#invariants.checkRunner();
      if (this.#failure !== undefined) throw this.#failure;
    }
  }

  // The cast.

  #makeHost(name: HostId): Host {
    const host: Host = new Host(
      name,
      new SimHypervisor({
        quiet: () => this.#workload.isQuiet,
        resumed: () => this.#workload.resumed(host),
      }),
      new Journal(() => (this.#isCalm ? 0 : this.options.journalFailingPercent)),
    );
    return host;
  }

  #makeDomain(host: Host, tokens: readonly (readonly Token[])[]): void {
    const { sizes, memory } = this.options;
    makeImages(host, sizes);
    for (const [vbd, sectors] of tokens.entries()) {
      const image = imageOf(host, vbd)!;
      image.write(0, encodeSectors(sectors));
      image.sync(image.mark());
    }
    const { state } = host.journal;
    host.journal.state = { ...state, domain: { generation: 1, owner: host.name }, copy: { kind: "live" } };
    const pages = Array.from({ length: memory.pages }, (_, page) => page + 1);
    for (const each of this.#hosts) this.#startDaemon(each, 0);
    host.hypervisor.start({ pages, steps: 0 });
  }

  #makeSurroundings(): Surroundings {
    const { options } = this;
    return {
      options,
      log: (who, what) => this.#log(who, what),
      wrong: (what) => this.#wrong(what),
      broken: (error) => {
        this.#failure ??= new Verdict("crash", error);
      },
      faults: {
        disk: { failing: () => 0 },
        hypervisorRefuses: () => !this.#isCalm && this.#prng.chance(options.hypervisorRefusesPercent),
        flushFails: () => !this.#isCalm && this.#prng.chance(options.flushFailingPercent),
        answerMs: () => this.#prng.between(0, options.answerMsMax),
      },
      dial: (from, to, migration) => this.#dial(from, to, migration),
      exported: (host) => this.#workload.reconnected(host),
      handedOver: (host) => {
        this.#log(host.name, () => "═ its generation ends here");
        this.#invariants.handedOver(host);
      },
      resumed: (host) => this.#invariants.checkMemory(host),
      aborted: () => {
        this.#outcome.aborted += 1;
      },
      replicaKept: (driver) => {
        this.#outcome.completed += 1;
        this.#invariants.replicaKept(driver);
      },
      replicaOffered: (host, generation) => this.#invariants.checkReplica(host, generation),
    };
  }

  // Daemons, and what befalls them.

  #startDaemon(host: Host, delayMs: number): void {
    this.#clock.after(delayMs, () => {
      const process = new Process({
        clock: this.#clock,
        prng: this.#prng,
        risk: {
          perMille: () => (this.#isCalm ? 0 : this.options.dyingPerMille),
          strike: (_, where) => this.#strike(host, where),
        },
      });
      // A disk that fails under a running guest is the guest's matter; under a copy it is ours.
      const disk = {
        failing: () => (this.#isCalm || host.ownsDomain ? 0 : this.options.diskFailingPerMille),
      };
      const faults = { ...this.#around.faults, disk };
      const daemon = new Daemon(
        host,
        process,
        { ...this.#around, faults },
        `session-${++this.#sessionsMade}`,
      );
      void this.#boot(daemon).catch((error: unknown) => {
        if (process.alive) this.#failure ??= new Verdict("crash", error);
      });
    });
  }

  async #boot(daemon: Daemon): Promise<void> {
    const { host, process } = daemon;
    const { domain, entries } = host.journal.state;
    const resumes = [...entries.values()].some(
      ({ role, record }) => role === "destination" && record.phase === "owner",
    );
    host.daemon = daemon;
    if (host.ownsDomain && !resumes) {
      const { generation } = domain!;
      if (generation === 1 && host.boots === 1 && !host.files.has("dirty-0")) {
        await createDirtyLogs(daemon.vbdParts, generation);
      }
      daemon.export(await GuestVbds.open(daemon.vbdParts, { generation }));
    }
    for (const [migration, entry] of entries) {
      if (!process.alive) return;
      if (entry.role === "source") {
        const [state, effects] = sourceMachine.restore(entry.record);
        await this.#startSource(daemon, { ...entry, migration, state }, effects);
      } else {
        const [initial, effects] = destinationMachine.restore(entry.record);
        const driver = new DestinationDriver(daemon, { migration, source: entry.peer, initial });
        daemon.destinations.set(migration, driver);
        await driver.start(effects);
      }
    }
    if (process.alive) daemon.isReady = true;
  }

  async #startSource(
    daemon: Daemon,
    {
      migration,
      peer,
      generation,
      state,
    }: { migration: MigrationId; peer: HostId; generation: number; state: sourceMachine.SourceState },
    effects: readonly sourceMachine.SourceEffect[],
  ): Promise<void> {
    const driver = new SourceDriver(
      daemon,
      sourceContext(daemon.host, this.options, { migration, destination: peer, generation }),
      state,
    );
    daemon.sources.set(migration, driver);
    await driver.start(effects);
  }

  #strike(host: Host, where: string): void {
    if (this.#prng.chance(this.options.dyingByPowerPercent)) this.#losePower(host, where);
    else this.#kill(host, where);
  }

  #kill(host: Host, where: string): void {
    const { daemon } = host;
    if (daemon === undefined || !daemon.process.alive) return;
    this.#log(host.name, () => `✗ the daemon is killed (${where})`);
    this.#outcome.crashes += 1;
    daemon.process.die();
    host.hypervisor.domain?.outgoing?.cancel();
    this.#dropSessions();
    this.#startDaemon(host, this.#prng.between(1, 400));
  }

  #losePower(host: Host, where: string): void {
    const { daemon } = host;
    if (daemon === undefined || !daemon.process.alive) return;
    this.#log(host.name, () => `✗ the power is lost (${where})`);
    this.#outcome.crashes += 1;
    daemon.process.die();
    host.hypervisor.destroy();
    if (host.ownsDomain) {
      this.#workload.died();
      this.#model.lostPower();
    }
    for (const file of host.files.values()) file.losePower(this.#prng);
    host.boots += 1;
    host.bootId = `boot-${host.boots}`;
    this.#dropSessions();
    this.#startDaemon(host, this.#prng.between(1, 800));
  }

  /** Sessions of dead processes break: the other side finds out. */
  #dropSessions(): void {
    for (const session of this.#sessions) {
      if (session.isBetweenLiving) continue;
      this.#sessions.delete(session);
      session.break();
    }
  }

  // The network.

  #dial(from: Daemon, to: HostId, migration: MigrationId): SourceSession | undefined {
    const daemon = this.#hosts.find(({ name }) => name === to)!.daemon;
    if (daemon === undefined || !daemon.isReady || !daemon.process.alive) return undefined;
    const [near, far] = SessionEnd.pair(from.process, daemon.process, this.#networkFaults);
    let driver = daemon.destinations.get(migration);
    if (driver === undefined) {
      const source = from.host.name;
      driver = new DestinationDriver(daemon, { migration, source, initial: destinationMachine.initial });
      daemon.destinations.set(migration, driver);
    }
    driver.attach(far as never);
    this.#sessions.add(near as never);
    return near as SourceSession;
  }

  // The schedule.

  get #isCalm(): boolean {
    return this.#isOver || this.#clock.now >= this.options.calmAtMs;
  }

  #schedule(): void {
    const { every, network } = this.options;
    this.#often(every.idleBreakMs, () => {
      const open = [...this.#sessions].filter(({ isOpen }) => isOpen);
      if (open.length === 0) return;
      this.#log("network", () => "✗ a session breaks");
      this.#prng.pick(open).break();
    });
    this.#often(every.killMs, () => this.#kill(this.#prng.pick(this.#hosts), "at some time"));
    this.#often(every.powerMs, () => this.#losePower(this.#prng.pick(this.#hosts), "at some time"));
    this.#often(every.cancelMs, () => {
      for (const { daemon } of this.#hosts) {
        for (const driver of daemon?.sources.values() ?? []) driver.cancel("the operator changed his mind");
      }
    });
    if (network.stallPercent > 0) {
      this.#often(200, () => {
        if (this.#prng.chance(network.stallPercent * 5)) {
          this.#stalledUntilMs = this.#clock.now + this.#prng.between(10, 400);
        }
      });
    }
    this.#operate();
  }

  #often(meanMs: number | undefined, action: () => void): void {
    if (meanMs === undefined) return;
    this.#clock.after(this.#prng.between(1, 2 * meanMs), () => {
      if (this.#isCalm) return;
      action();
      this.#often(meanMs, action);
    });
  }

  /** The operator: starts a domain that is off, and the next migration when the last one is over. */
  #operate(): void {
    this.#clock.after(this.#prng.between(5, 150), () => {
      const host = this.#invariants.owner();
      const daemon = host?.daemon;
      if (host !== undefined && daemon?.isReady && daemon.process.alive && daemon.vbds !== undefined) {
        this.#bootDomain(host);
        const isRunning = host.hypervisor.domain?.state === "running";
        const isFree = isRunning && daemon.isBusy("") === undefined;
        if (isFree && this.#migrations < this.options.hops) this.#migrate(host, daemon);
      }
      if (!this.#hasEnded()) this.#operate();
    });
  }

  #bootDomain(host: Host): void {
    if (host.hypervisor.domain !== undefined) return;
    this.#log(host.name, () => "the operator starts the domain");
    const pages = Array.from({ length: this.options.memory.pages }, () => this.#prng.between(1, 999));
    host.hypervisor.start({ pages, steps: 0 });
  }

  #migrate(host: Host, daemon: Daemon): void {
    const peer = this.#prng.pick(this.#hosts.filter((other) => other !== host)).name;
    const migration = `m${++this.#migrations}`;
    const { generation } = host.journal.state.domain!;
    this.#log("operator", () => `${migration}: ${host.name} to ${peer}, generation ${generation}`);
    const [state, effects] = sourceMachine.start(
      sourceContext(host, this.options, { migration, destination: peer, generation }),
    );
    void this.#startSource(daemon, { migration, peer, generation, state }, effects);
  }

  // The end.

  #hasEnded(): boolean {
    if (this.#migrations < this.options.hops) return false;
    const owner = this.#invariants.owner();
    if (owner?.hypervisor.domain?.state !== "running") return false;
    return this.#hosts.every(({ daemon, journal }) => {
      if (daemon === undefined || !daemon.isReady || !daemon.process.alive) return false;
      return (
        journal.state.entries.size === 0 && [...daemon.sources.values()].every((source) => source.hasEnded)
      );
    });
  }

  /** Every sector of every vbd, as the guest would read it. */
  async #checkContent(limitMs: number): Promise<void> {
    const owner = this.#invariants.owner()!;
    for (const [vbd, sizeBytes] of this.options.sizes.entries()) {
      const bytes = new Uint8Array(sizeBytes);
      const extent = { vbd, sector: 0, count: sizeBytes / SECTOR_BYTES };
      const since = this.#model.begin();
      let isDone = false;
      const read = Promise.resolve(owner.daemon!.vbds!.store(vbd).read(0, bytes)).then(() => {
        isDone = true;
      });
      await this.#runUntil(() => isDone, limitMs);
      await read;
      const complaint = checkRead(this.#model, extent, bytes, since);
      if (complaint !== undefined) throw new Verdict("wrong", complaint);
    }
  }

  #checkLeftovers(): void {
    this.#invariants.checkLeftovers();
    if (this.#failure !== undefined) throw this.#failure;
  }

  #wrong(what: string): void {
    this.#log("✗✗", () => what);
    this.#failure ??= new Verdict("wrong", what);
  }

  #log(who: string, what: () => string): void {
    if (this.#isVerbose) this.transcript.push(`${String(this.#clock.now).padStart(6)} ms  ${who}: ${what()}`);
  }

  #standing(): string {
    const lines = this.#hosts.map(({ name, daemon, hypervisor, journal, ownsDomain }) => {
      const machines = [...(daemon?.sources ?? []), ...(daemon?.destinations ?? [])].map(
        ([migration, { state }]) => `${migration} ${state.phase}`,
      );
      const domain = hypervisor.domain?.state ?? "off";
      const entries = [...journal.state.entries].map(
        ([migration, { record }]) => `${migration} ${record.phase}`,
      );
      const who = ownsDomain ? `${name} (owner)` : name;
      return `${who}: domain ${domain}; machines ${machines.join(", ")}; journal ${entries.join(", ")}`;
    });
    if (!this.#workload.isQuiet) lines.push("the guest waits for its I/O");
    return lines.join("\n");
  }
}

/** One turn of the event loop: everything that waited for the last action has run as far as it can. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
