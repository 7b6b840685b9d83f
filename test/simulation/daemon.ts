/** A host and its daemon: what the two drivers stand on. */
import type { HostId, MigrationId } from "../../protocol/messages.ts";
import type { DestinationDriver } from "./destination-driver.ts";
import type { DiskFaults, SimFile } from "./disk.ts";
import type { SimHypervisor } from "./hypervisor.ts";
import type { Journal } from "./journal.ts";
import type { Options } from "./options.ts";
import type { Process } from "./process.ts";
import type { SourceDriver, SourceSession } from "./source-driver.ts";
import { type GuestVbds, type HostFiles, imageOf, type VbdParts } from "./vbds.ts";

/** What outlives the daemon. */
export class Host implements HostFiles {
  readonly name: HostId;
  readonly journal: Journal;
  readonly files = new Map<string, SimFile>();
  readonly hypervisor: SimHypervisor;
  bootId = "boot-1";
  boots = 1;
  daemon: Daemon | undefined;

  constructor(name: HostId, hypervisor: SimHypervisor, journal: Journal) {
    this.name = name;
    this.journal = journal;
    this.hypervisor = hypervisor;
  }

  get ownsDomain(): boolean {
    return this.journal.state.domain?.owner === this.name;
  }

  imageBytes(): Uint8Array[] {
    const images: Uint8Array[] = [];
    for (let vbd = 0; imageOf(this, vbd) !== undefined; vbd++) images.push(imageOf(this, vbd)!.bytes);
    return images;
  }
}

/** What the world offers to a daemon and wants to know of it. */
export type Surroundings = {
  options: Options;
  log: (who: string, what: () => string) => void;
  /** The code under test broke a rule. */
  wrong: (what: string) => void;
  broken: (error: unknown) => void;
  faults: {
    disk: DiskFaults;
    hypervisorRefuses: () => boolean;
    flushFails: () => boolean;
    answerMs: () => number;
  };
  /** Opens a session to the peer's daemon for a migration; undefined when it cannot be reached. */
  dial: (from: Daemon, to: HostId, migration: MigrationId) => SourceSession | undefined;
  /** The host's vbds can be reached by a guest again. */
  exported: (host: Host) => void;
  handedOver: (host: Host) => void;
  resumed: (host: Host) => void;
  aborted: () => void;
  replicaKept: (driver: SourceDriver) => void;
  replicaOffered: (host: Host, generation: number) => void;
};

export class Daemon {
  readonly host: Host;
  readonly process: Process;
  readonly around: Surroundings;
  readonly session: string;
  readonly sources = new Map<MigrationId, SourceDriver>();
  readonly destinations = new Map<MigrationId, DestinationDriver>();
  /** The domain's vbds while it is this host's. */
  vbds: GuestVbds | undefined;
  /** Everything in the journal goes on again; peers are answered. */
  isReady = false;

  constructor(host: Host, process: Process, around: Surroundings, session: string) {
    this.host = host;
    this.process = process;
    this.around = around;
    this.session = session;
  }

  get vbdParts(): VbdParts {
    const { process, host, around } = this;
    const { sizes, store, regionBlocks, activeRegionsMax } = around.options;
    return { process, host, faults: around.faults.disk, sizes, store, regionBlocks, activeRegionsMax };
  }

  /** Images, hypervisor and journal may be used; a guest that waits for its vbds is served. */
  export(vbds: GuestVbds): void {
    if (!this.process.alive) return;
    this.vbds = vbds;
    this.around.exported(this.host);
  }

  /** Whether another migration of the domain stands in the way of one that comes in. */
  isBusy(except: MigrationId): string | undefined {
    for (const [migration, { state }] of this.destinations) {
      if (migration === except) continue;
      if (state.phase !== "idle" && state.phase !== "aborted" && state.phase !== "completed") {
        return `${migration} is ${state.phase} here`;
      }
    }
    for (const [migration, { state }] of this.sources) {
      if (!["finishing", "completed", "aborting", "aborted"].includes(state.phase)) {
        return `${migration} is ${state.phase} from here`;
      }
    }
    return undefined;
  }
}
