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
import { GenerationLog } from "../../protocol/generation-log.ts";
import type { HostId, MigrationId } from "../../protocol/messages.ts";
import * as sourceMachine from "../../protocol/source.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../protocol/units.ts";
import { Clock } from "./clock.ts";
import { Daemon, Host, type Surroundings } from "./daemon.ts";
import { DestinationDriver } from "./destination-driver.ts";
import { SECTOR_BYTES } from "./disk.ts";
import { ContentModel, encodeSectors, type Token } from "./guest.ts";
import { type Memory, SimHypervisor } from "./hypervisor.ts";
import { Journal } from "./journal.ts";
import { type NetworkFaults, SessionEnd } from "./network.ts";
import { drawOptions, type Options } from "./options.ts";
import { Prng } from "./prng.ts";
import { Process } from "./process.ts";
import { SourceDriver, type SourceSession } from "./source-driver.ts";
import { createDirtyLogs, GuestVbds, imageOf, makeImages } from "./vbds.ts";
import { Verdict } from "./verdict.ts";
import { checkRead, Workload } from "./workload.ts";

/** One turn of the event loop: everything that waited for the last action has run as far as it can. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

const MS_PER_HOP_MAX = 60_000;
const FORGETTING_MS_MAX = 60_000;

export type Outcome = {
  completed: number;
  aborted: number;
  crashes: number;
  virtualMs: number;
  events: number;
};

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
  /** What each closed generation left, to hold the replicas against. */
  readonly #snapshots = new Map<number, { images: Uint8Array[]; memory: Memory | undefined }>();
  #migrations = 0;
  #sessionsMade = 0;
  #failure: Verdict | undefined;
  #stalledUntilMs = 0;
  /** All migrations are over: no more harm is done, and what is left is checked. */
  #isOver = false;
  readonly #outcome: Outcome = { completed: 0, aborted: 0, crashes: 0, virtualMs: 0, events: 0 };

  constructor(seed: number, { verbose = false }: { verbose?: boolean } = {}) {
    this.seed = seed;
    this.#isVerbose = verbose;
    this.#prng = new Prng(seed);
    const options = drawOptions(this.#prng);
    this.options = options;
    const tokens = options.sizes.map((sizeBytes) => this.#initialTokens(sizeBytes));
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
    this.#networkFaults = {
      ...options.network,
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
      this.#checkRunner();
      if (this.#failure !== undefined) throw this.#failure;
    }
  }

  // The cast.

  #initialTokens(sizeBytes: number): Token[] {
    const tokens: Token[] = [];
    for (let at = 0, token = 0; at < sizeBytes; at += SECTOR_BYTES) {
      if (at % BLOCK_SIZE_BYTES === 0) token = this.#prng.chance(60) ? this.#prng.between(1, 999_999) : 0;
      tokens.push(token);
    }
    return tokens;
  }

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
      handedOver: (host) => this.#handedOver(host),
      resumed: (host) => this.#checkMemory(host),
      aborted: () => {
        this.#outcome.aborted += 1;
      },
      replicaKept: (driver) => this.#replicaKept(driver),
      replicaOffered: (host, generation) => this.#checkReplica(host, generation),
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
    const driver = new SourceDriver(daemon, this.#contextOf(daemon.host, migration, peer, generation), state);
    daemon.sources.set(migration, driver);
    await driver.start(effects);
  }

  #contextOf(
    host: Host,
    migration: MigrationId,
    destination: HostId,
    generation: number,
  ): sourceMachine.SourceContext {
    const { sizes, memory, machine } = this.options;
    const { log, replicas } = host.journal.state;
    const vbds = sizes.map((sizeBytes, vbd) => ({ name: `vbd${vbd}`, sizeBytes }));
    return {
      migration,
      destination,
      domain: {
        id: "domain",
        name: "domain",
        hypervisor: "simulated",
        memoryBytes: memory.pages,
        config: "",
        vbds,
      },
      generation,
      log: GenerationLog.of(sizes.map(blockCountOf), log, generation - 1),
      replicas,
      dataBytes: sizes.reduce((sum, sizeBytes) => sum + sizeBytes, 0),
      ...machine,
    };
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
      const host = this.#owner();
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
    const [state, effects] = sourceMachine.start(this.#contextOf(host, migration, peer, generation));
    void this.#startSource(daemon, { migration, peer, generation, state }, effects);
  }

  // What must hold.

  /** The host that the highest generation names. */
  #owner(): Host | undefined {
    const domains = this.#hosts.map(({ journal }) => journal.state.domain);
    const highest = Math.max(...domains.map((domain) => domain?.generation ?? 0));
    return this.#hosts.find(
      ({ journal, ownsDomain }) => ownsDomain && journal.state.domain?.generation === highest,
    );
  }

  #checkRunner(): void {
    const running = this.#hosts.filter(({ hypervisor: { domain } }) => {
      return domain?.state === "running" || domain?.state === "freezing";
    });
    if (running.length > 1) this.#wrong(`${running.map(({ name }) => name).join(" and ")} run the domain`);
    const [host] = running;
    if (host !== undefined && host !== this.#owner()) {
      this.#wrong(`${host.name} runs the domain without owning its highest generation`);
    }
  }

  #handedOver(host: Host): void {
    const { generation } = host.journal.state.domain!;
    const { domain } = host.hypervisor;
    this.#log(host.name, () => `═ generation ${generation - 1} ends here`);
    if (domain !== undefined && domain.state !== "suspended") {
      this.#wrong(`${host.name} hands over a domain that is ${domain.state}`);
    }
    for (let vbd = 0; vbd < this.options.sizes.length; vbd++) {
      if (!imageOf(host, vbd)!.isDurable)
        this.#wrong(`${host.name} hands over vbd ${vbd} with unflushed writes`);
    }
    // Recorded again, after a restart or a failure: the memory may be gone by then, the images not.
    if (this.#snapshots.has(generation - 1)) {
      this.#checkReplica(host, generation - 1);
      return;
    }
    const images = host.imageBytes().map((bytes) => bytes.slice());
    const memory = domain && { pages: [...domain.memory.pages], steps: domain.memory.steps };
    this.#snapshots.set(generation - 1, { images, memory });
    this.#model.flushedAll();
    if (host.daemon !== undefined) host.daemon.vbds = undefined;
  }

  #checkMemory(host: Host): void {
    const { hypervisor, journal } = host;
    const domain = hypervisor.domain!;
    if (domain.incoming === undefined) return;
    const frozen = this.#snapshots.get(journal.state.domain!.generation - 1)?.memory;
    if (JSON.stringify(frozen) !== JSON.stringify(domain.memory)) {
      const found = JSON.stringify(domain.memory);
      this.#wrong(`${host.name} resumes with memory ${found}, frozen was ${JSON.stringify(frozen)}`);
    }
  }

  #checkReplica(host: Host, generation: number): void {
    const { images } = this.#snapshots.get(generation)!;
    for (const [vbd, bytes] of host.imageBytes().entries()) {
      if (Buffer.compare(bytes, images[vbd]!) === 0) continue;
      this.#wrong(`${host.name}'s replica of generation ${generation} differs in vbd ${vbd}`);
    }
  }

  /** The source was told that nothing is missing any more: but for what was written since, both are equal. */
  #replicaKept({ daemon, context, meter }: SourceDriver): void {
    this.#outcome.completed += 1;
    const { generation } = context;
    this.#checkReplica(daemon.host, generation);
    const complaint = meter.complaint();
    if (complaint !== undefined) this.#wrong(complaint);
    const owner = this.#owner();
    const vbds = owner?.daemon?.vbds;
    if (owner === undefined || vbds?.generation !== generation + 1 || !owner.daemon!.process.alive) return;
    for (const [vbd, bytes] of owner.imageBytes().entries()) {
      const written = vbds.written(vbd);
      const before = this.#snapshots.get(generation)!.images[vbd]!;
      for (let block = 0; block < written.blockCount; block++) {
        if (written.has(block)) continue;
        const [start, end] = [block * BLOCK_SIZE_BYTES, (block + 1) * BLOCK_SIZE_BYTES];
        if (Buffer.compare(bytes.subarray(start, end), before.subarray(start, end)) === 0) continue;
        this.#wrong(
          `block ${block} of vbd ${vbd} is not what generation ${generation} left, and nobody wrote it`,
        );
      }
    }
  }

  #hasEnded(): boolean {
    if (this.#migrations < this.options.hops) return false;
    const owner = this.#owner();
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
    const owner = this.#owner()!;
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
    const owner = this.#owner();
    for (const host of this.#hosts) {
      const { copy } = host.journal.state;
      if (copy.kind === "replica") this.#checkReplica(host, copy.generation);
      if (host === owner || host.hypervisor.domain === undefined) continue;
      this.#wrong(`${host.name} still holds a domain that is ${host.hypervisor.domain.state}`);
    }
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
      return `${this.#workload.isQuiet ? "" : "guest waits; "}${name}${ownsDomain ? " (owner)" : ""}: domain ${domain}; machines ${machines.join(", ")}; journal ${entries.join(", ")}`;
    });
    return lines.join("\n");
  }
}
