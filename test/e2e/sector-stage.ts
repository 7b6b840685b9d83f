/** Two whole daemons, and before every test a domain of QEMU that works on `alpha`: the boot sector's guest. */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import { Cluster, type ClusterHost } from "../../testnet/cluster.ts";
import { processesOf } from "../../testnet/processes.ts";
import { until } from "../../testnet/waiting.ts";
import {
  bootSector,
  HAS_ASSEMBLER,
  QEMU_EXECUTABLE,
  SECTOR_GUEST_MEMORY_BYTES,
  saidBy,
} from "../node/hypervisor/qemu/sector-guest.ts";

export const CAN_RUN_QEMU = QEMU_EXECUTABLE !== undefined && HAS_ASSEMBLER;
export const VBD_BYTES = 4 << 20;

export class SectorStage {
  #cluster: Cluster | undefined;
  #folder = "";
  #count = 0;
  /** Of the test's domain. */
  name = "";
  id = "";

  /** To be called in a `describe`: what it makes is there in its tests. */
  static use(): SectorStage {
    const stage = new SectorStage();
    beforeAll(() => stage.#begin(), 180_000);
    afterAll(() => stage.#end());
    beforeEach(() => stage.#create());
    afterEach(() => stage.#clear());
    return stage;
  }

  get hosts(): readonly ClusterHost[] {
    return this.#cluster?.hosts ?? [];
  }

  get alpha(): ClusterHost {
    return this.#cluster!.host("alpha");
  }

  get beta(): ClusterHost {
    return this.#cluster!.host("beta");
  }

  /** A folder for what the tests write, and the image that every domain begins with. */
  get folder(): string {
    return this.#folder;
  }

  /** The guest goes through two rounds over its disk and memory, and finds no fault. */
  async works(host: ClusterHost): Promise<void> {
    const log = join(host.runDir, this.id, "console.log");
    const before = await saidBy(log);
    await until(`the guest works on ${host.name}`, async () => {
      return (await saidBy(log)).rounds >= before.rounds + 2 ? true : undefined;
    });
    expect((await saidBy(log)).faults).toBe(0);
  }

  async stateOn(host: ClusterHost): Promise<string> {
    return (await host.call("show", { domain: this.name })).state;
  }

  async comesTo(host: ClusterHost, state: string): Promise<void> {
    await until(`${this.name} is ${state}, as ${host.name} says`, async () =>
      (await this.stateOn(host)) === state ? true : undefined,
    );
  }

  /** The process of the guest. */
  guestOn(host: ClusterHost): number | undefined {
    return processesOf(join(host.runDir, this.id))[0];
  }

  vbdFile(host: ClusterHost): string {
    return join(host.dataDir, "vbds", this.id, "root.raw");
  }

  async #begin(): Promise<void> {
    this.#folder = await mkdtemp(join(tmpdir(), "sojourn-qemu-"));
    const image = Buffer.alloc(VBD_BYTES);
    (await bootSector()).copy(image);
    await writeFile(join(this.#folder, "image"), image);
    this.#cluster = await Cluster.start({
      names: ["alpha", "beta"],
      config: { qemu: { executable: QEMU_EXECUTABLE, acceleration: "tcg" } },
    });
  }

  async #end(): Promise<void> {
    await this.#cluster?.stop();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #create(): Promise<void> {
    this.name = `guest-${++this.#count}`;
    const { domain } = await this.alpha.call("create", {
      name: this.name,
      hypervisor: "qemu",
      memoryBytes: SECTOR_GUEST_MEMORY_BYTES,
      vbds: [{ name: "root", image: join(this.#folder, "image") }],
      config: "{}",
    });
    this.id = domain;
    await this.works(this.alpha);
  }

  async #clear(): Promise<void> {
    await Promise.all(this.hosts.map((host) => host.start()));
    for (const host of this.hosts) await host.call("destroy", { domain: this.name }).catch(() => undefined);
  }
}
