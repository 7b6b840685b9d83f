/**
 * The guest: it changes its memory, and has several reads, writes, trims and flushes on their way at once. Its
 * NBD client outlives the daemon: what was not answered is sent again as soon as the vbds can be reached.
 */
import type { BlockStore, Completion } from "../../storage/block-store.ts";
import type { Clock } from "./clock.ts";
import type { Host } from "./daemon.ts";
import { SECTOR_BYTES } from "./disk.ts";
import {
  type ContentModel,
  decodeSectors,
  type Extent,
  encodeSectors,
  type Token,
  type Write,
} from "./guest.ts";
import type { Options } from "./options.ts";
import type { Prng } from "./prng.ts";

const SECTORS_PER_BLOCK = 8;
/** Then the guest rests, so that a world ends. */
const REQUESTS_MAX = 500;

type Request = { id: number; since: number; extent: Extent } & (
  | { kind: "read" }
  | { kind: "flush" }
  | { kind: "write" | "zeroes" | "trim"; write: Write; token: Token }
);

export type WorkloadParts = {
  clock: Clock;
  prng: Prng;
  options: Options;
  model: ContentModel;
  wrong: (what: string) => void;
  log: (who: string, what: () => string) => void;
};

export class Workload {
  readonly #parts: WorkloadParts;
  readonly #outstanding = new Map<number, Request>();
  #requests = 0;
  #nextToken = 1_000_000;
  /** Where the domain runs; every start of it is another life. */
  #host: Host | undefined;
  #life = 0;
  #isResting = false;

  constructor(parts: WorkloadParts) {
    this.#parts = parts;
  }

  get isQuiet(): boolean {
    return this.#outstanding.size === 0;
  }

  /** No new requests from now on. */
  rest(): void {
    this.#isResting = true;
  }

  /** The domain runs (again) on this host. */
  resumed(host: Host): void {
    this.#host = host;
    this.#life += 1;
    this.#step(this.#life);
  }

  /** The domain is gone with all that it was waiting for. */
  died(): void {
    this.#outstanding.clear();
    this.#host = undefined;
    this.#life += 1;
  }

  /** The vbds of the host can be reached: what is unanswered is sent, again. */
  reconnected(host: Host): void {
    if (this.#host !== host) return;
    for (const request of [...this.#outstanding.values()]) this.#submit(request);
  }

  #step(life: number): void {
    const { clock, prng, options } = this.#parts;
    clock.after(prng.between(1, options.guest.stepMs), () => {
      const host = this.#host;
      if (life !== this.#life || host?.hypervisor.domain?.state !== "running") return;
      host.hypervisor.touch(prng.between(0, options.memory.pages - 1), this.#nextToken++);
      if (this.#isResting || this.#requests >= REQUESTS_MAX) return;
      if (this.#outstanding.size < options.guest.outstandingMax) this.#issue();
      this.#step(life);
    });
  }

  #issue(): void {
    const { prng, options, model } = this.#parts;
    const extent = this.#extent();
    const id = ++this.#requests;
    let request: Request;
    if (prng.chance(options.guest.flushPercent)) {
      request = { id, kind: "flush", since: model.begin(), extent };
    } else if (!prng.chance(options.guest.writePercent)) {
      request = { id, kind: "read", since: model.begin(), extent };
    } else {
      if (this.#overlaps(extent) && !prng.chance(options.guest.overlapPercent)) return;
      const kind = prng.pick(["write", "write", "write", "zeroes", "trim"] as const);
      const token = kind === "write" ? this.#nextToken++ : 0;
      const write = model.issue(extent, token, { supersedes: kind !== "trim" });
      request = { id, kind, since: 0, extent, write, token };
    }
    this.#outstanding.set(id, request);
    this.#parts.log("guest", () => `${describe(request)} ...`);
    this.#submit(request);
  }

  #extent(): Extent {
    const { prng, options, model } = this.#parts;
    const vbd = prng.between(0, options.sizes.length - 1);
    const sectors = model.sectorCount(vbd);
    const limit = prng.chance(options.guest.hotPercent) ? Math.min(sectors, 3 * SECTORS_PER_BLOCK) : sectors;
    let sector = prng.between(0, limit - 1);
    let count = prng.between(1, prng.pick([1, 8, 24]));
    if (prng.chance(40)) {
      sector -= sector % SECTORS_PER_BLOCK;
      count = prng.between(1, 3) * SECTORS_PER_BLOCK;
    }
    return { vbd, sector, count: Math.min(count, sectors - sector) };
  }

  #overlaps({ vbd, sector, count }: Extent): boolean {
    return [...this.#outstanding.values()].some(({ kind, extent }) => {
      if (kind === "read" || kind === "flush" || extent.vbd !== vbd) return false;
      return extent.sector < sector + count && sector < extent.sector + extent.count;
    });
  }

  #submit(request: Request): void {
    const daemon = this.#host?.daemon;
    if (daemon?.vbds === undefined || !daemon.process.alive) return;
    const { prng } = this.#parts;
    const { process } = daemon;
    const target = new Uint8Array(request.kind === "read" ? request.extent.count * SECTOR_BYTES : 0);
    const answer = (): void => {
      process.after(prng.between(0, 2), () => this.#answered(request, target));
    };
    const fail = (error: unknown): void => {
      if (process.alive) this.#parts.wrong(`the guest's ${request.kind} failed: ${String(error)}`);
    };
    try {
      const done = perform(request, daemon.vbds.store(request.extent.vbd), target);
      if (done === undefined) answer();
      else done.then(answer, fail);
    } catch (error) {
      fail(error);
    }
  }

  #answered(request: Request, target: Uint8Array): void {
    if (!this.#outstanding.delete(request.id)) return;
    const { model, wrong, log } = this.#parts;
    log("guest", () => `${describe(request)} is done`);
    switch (request.kind) {
      case "read": {
        const complaint = checkRead(model, request.extent, target, request.since);
        if (complaint !== undefined) wrong(complaint);
        break;
      }
      case "flush":
        model.flushed(request.extent.vbd, request.since);
        break;
      default:
        model.answered(request.write);
    }
    this.#host?.hypervisor.ioAnswered();
  }
}

function describe(request: Request): string {
  const { vbd, sector, count } = request.extent;
  const what = "token" in request ? ` of ${request.token}` : "";
  return `#${request.id} ${request.kind}${what} vbd ${vbd} sectors ${sector}+${count}`;
}

/** What a read returned, against what it may return. */
export function checkRead(
  model: ContentModel,
  extent: Extent,
  bytes: Uint8Array,
  since: number,
): string | undefined {
  const tokens = decodeSectors(bytes);
  if (tokens === undefined) return `a torn sector at ${extent.sector} of vbd ${extent.vbd}`;
  const complaint = model.check(extent, tokens, since);
  if (complaint === undefined) model.settled(extent, tokens);
  return complaint;
}

function perform(request: Request, store: BlockStore, target: Uint8Array): Completion {
  const offset = request.extent.sector * SECTOR_BYTES;
  const length = request.extent.count * SECTOR_BYTES;
  switch (request.kind) {
    case "read":
      return store.read(offset, target);
    case "flush":
      return store.flush();
    case "write":
      return store.write(offset, encodeSectors(new Array(request.extent.count).fill(request.token)));
    case "zeroes":
      return store.writeZeroes(offset, length, { mayUnmap: true });
    case "trim":
      return store.trim(offset, length);
  }
}
