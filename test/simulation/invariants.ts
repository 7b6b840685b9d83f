/** What must hold in every world, whatever befalls it: safety, as the code under test cannot see it. */
import { BLOCK_SIZE_BYTES } from "../../protocol/units.ts";
import type { Host } from "./daemon.ts";
import type { ContentModel } from "./guest.ts";
import type { Memory } from "./hypervisor.ts";
import type { SourceDriver } from "./source-driver.ts";
import { imageOf } from "./vbds.ts";

type Snapshot = { images: Uint8Array[]; memory: Memory | undefined };

export type InvariantParts = {
  hosts: readonly Host[];
  model: ContentModel;
  wrong: (what: string) => void;
};

export class Invariants {
  readonly #hosts: readonly Host[];
  readonly #model: ContentModel;
  readonly #wrong: (what: string) => void;
  /** What each closed generation left: the replicas must equal it. */
  readonly #snapshots = new Map<number, Snapshot>();

  constructor({ hosts, model, wrong }: InvariantParts) {
    this.#hosts = hosts;
    this.#model = model;
    this.#wrong = wrong;
  }

  /** The host that the highest generation names; undefined between `handed-over` and `owner`. */
  owner(): Host | undefined {
    const generations = this.#hosts.map(({ journal }) => journal.state.domain?.generation ?? 0);
    const highest = Math.max(...generations);
    return this.#hosts.find(
      ({ journal, ownsDomain }) => ownsDomain && journal.state.domain?.generation === highest,
    );
  }

  /** At most one host runs the domain, and only by the highest generation in any journal. */
  checkRunner(): void {
    const running = this.#hosts.filter(({ hypervisor: { domain } }) => {
      return domain?.state === "running" || domain?.state === "freezing";
    });
    if (running.length > 1) this.#wrong(`${running.map(({ name }) => name).join(" and ")} run the domain`);
    const [host] = running;
    if (host === undefined || host === this.owner()) return;
    this.#wrong(`${host.name} runs the domain without owning its highest generation`);
  }

  /** `handed-over` is durable: the domain stands still, and so is all that it ever wrote. */
  handedOver(host: Host): void {
    const generation = host.journal.state.domain!.generation - 1;
    const { domain } = host.hypervisor;
    if (domain !== undefined && domain.state !== "suspended") {
      this.#wrong(`${host.name} hands over a domain that is ${domain.state}`);
    }
    const images = host.imageBytes().map((bytes) => bytes.slice());
    for (const vbd of images.keys()) {
      if (imageOf(host, vbd)!.isDurable) continue;
      this.#wrong(`${host.name} hands over vbd ${vbd} with unflushed writes`);
    }
    if (host.daemon !== undefined) host.daemon.vbds = undefined;
    if (this.#snapshots.has(generation)) {
      // Recorded again, after a restart or a failure: the memory may be gone by then, the images not.
      this.checkReplica(host, generation);
      return;
    }
    const memory = domain && { pages: [...domain.memory.pages], steps: domain.memory.steps };
    this.#snapshots.set(generation, { images, memory });
    this.#model.flushedAll();
  }

  /** A domain is about to resume from a memory stream: it must hold what was frozen. */
  checkMemory(host: Host): void {
    const domain = host.hypervisor.domain!;
    if (domain.incoming === undefined) return;
    const frozen = this.#snapshots.get(host.journal.state.domain!.generation - 1)?.memory;
    const [expected, found] = [JSON.stringify(frozen), JSON.stringify(domain.memory)];
    if (found !== expected) this.#wrong(`${host.name} resumes with memory ${found}, frozen was ${expected}`);
  }

  checkReplica(host: Host, generation: number): void {
    const { images } = this.#snapshots.get(generation)!;
    for (const [vbd, bytes] of host.imageBytes().entries()) {
      if (Buffer.compare(bytes, images[vbd]!) === 0) continue;
      this.#wrong(`${host.name}'s replica of generation ${generation} differs in vbd ${vbd}`);
    }
  }

  /** The source was told that nothing is missing any more: but for what was written since, both are equal. */
  replicaKept({ daemon, context, meter }: SourceDriver): void {
    const { generation } = context;
    this.checkReplica(daemon.host, generation);
    const complaint = meter.complaint();
    if (complaint !== undefined) this.#wrong(complaint);
    const owner = this.owner();
    const vbds = owner?.daemon?.vbds;
    if (owner === undefined || vbds?.generation !== generation + 1 || !owner.daemon!.process.alive) return;
    for (const [vbd, bytes] of owner.imageBytes().entries()) {
      const before = this.#snapshots.get(generation)!.images[vbd]!;
      const written = vbds.written(vbd);
      for (let block = 0; block < written.blockCount; block++) {
        if (written.has(block) || isSameBlock(bytes, before, block)) continue;
        this.#wrong(
          `nobody wrote block ${block} of vbd ${vbd}, and it is not what generation ${generation} left`,
        );
      }
    }
  }

  /** When all is over: replicas are what they say, and only the owner still holds a domain. */
  checkLeftovers(): void {
    const owner = this.owner();
    for (const host of this.#hosts) {
      const { copy } = host.journal.state;
      if (copy.kind === "replica") this.checkReplica(host, copy.generation);
      if (host === owner || host.hypervisor.domain === undefined) continue;
      this.#wrong(`${host.name} still holds a domain that is ${host.hypervisor.domain.state}`);
    }
  }
}

function isSameBlock(ours: Uint8Array, theirs: Uint8Array, block: number): boolean {
  const [start, end] = [block * BLOCK_SIZE_BYTES, (block + 1) * BLOCK_SIZE_BYTES];
  return Buffer.compare(ours.subarray(start, end), theirs.subarray(start, end)) === 0;
}
