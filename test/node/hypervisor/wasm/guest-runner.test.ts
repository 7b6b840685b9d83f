import { describe, expect, it } from "vitest";
import { parseGuestConfig } from "../../../../node/hypervisor/wasm/config.ts";
import { GuestMachine } from "../../../../node/hypervisor/wasm/guest-machine.ts";
import { guestErrors, guestFigures } from "../../../../node/hypervisor/wasm/guest-report.ts";
import { type BlockClient, GuestRunner } from "../../../../node/hypervisor/wasm/guest-runner.ts";

const MIB = 2 ** 20;

type Held = { operation: string; answer: () => void };

/** A vbd whose answers come when the test says so. */
class HeldVbd implements BlockClient {
  readonly held: Held[] = [];
  closed = false;
  readonly #bytes = Buffer.alloc(MIB);
  #arrived: (() => void) | undefined;

  /** Resolves when an operation of that kind waits for its answer. */
  async arrival(operation: string): Promise<void> {
    while (!this.held.some((held) => held.operation === operation)) {
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
  }

  answerAll(): void {
    for (const { answer } of this.held.splice(0)) answer();
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#hold("read", () => Uint8Array.from(this.#bytes.subarray(offset, offset + length)));
  }

  write(offset: number, data: Uint8Array): Promise<void> {
    return this.#hold("write", () => void this.#bytes.set(data, offset));
  }

  flush(): Promise<void> {
    return this.#hold("flush", () => {});
  }

  trim(): Promise<void> {
    return this.#hold("trim", () => {});
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#hold("zero", () => void this.#bytes.fill(0, offset, offset + length));
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  #hold<T>(operation: string, done: () => T): Promise<T> {
    expect(this.closed).toBe(false);
    return new Promise((resolve) => {
      this.held.push({ operation, answer: () => resolve(done()) });
      this.#arrived?.();
    });
  }
}

function running(config: Record<string, unknown>) {
  const machine = new GuestMachine(4 * MIB);
  const text = JSON.stringify({ touchedMemoryBytes: MIB / 2, fillBytes: 0, ...config });
  machine.boot(parseGuestConfig(text), [{ name: "xvda", sizeBytes: MIB, socketPath: "", exportName: "" }]);
  const clients: HeldVbd[] = [];
  const runner = new GuestRunner({
    machine,
    connect: () => {
      const client = new HeldVbd();
      clients.push(client);
      return client;
    },
    onCrash: (error) => {
      throw error;
    },
    onStep: () => {},
  });
  runner.run();
  return { machine, runner, clients };
}

describe("a guest's runner", () => {
  it("waits for the writes in flight before it says that it stopped, and takes their answers", async () => {
    const { machine, runner, clients } = running({ workload: "diabolical", fillBytes: MIB, depth: 4 });
    const [vbd] = clients;
    await vbd!.arrival("write");
    let stopped = false;
    const stopping = runner.stop().then(() => {
      stopped = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(stopped).toBe(false);
    vbd!.answerAll();
    await stopping;
    expect(vbd!.closed).toBe(true);
    expect(vbd!.held).toEqual([]);
    expect(guestFigures(machine).requests).toMatchObject({ issued: 0, done: 4 });
  });

  it("does not let a read's late answer change the memory of a stopped guest", async () => {
    const { machine, runner, clients } = running({ workload: "video", opsPerSecond: "unlimited" });
    const [vbd] = clients;
    await vbd!.arrival("read");
    const stopping = runner.stop();
    for (const { operation, answer } of vbd!.held) if (operation !== "read") answer();
    await stopping;
    const frozen = Buffer.from(machine.memory);
    vbd!.answerAll();
    await new Promise((resolve) => setImmediate(resolve));
    expect(machine.memory.equals(frozen)).toBe(true);
    expect((guestFigures(machine).requests as { issued: number }).issued).toBeGreaterThan(0);
  });

  it("issues again over a new client what was issued and not answered", async () => {
    const { machine, runner, clients } = running({ workload: "video", opsPerSecond: "unlimited" });
    await clients[0]!.arrival("read");
    const stopping = runner.stop();
    for (const { operation, answer } of clients[0]!.held) if (operation !== "read") answer();
    await stopping;
    const issued = (guestFigures(machine).requests as { issued: number }).issued;
    runner.run();
    expect(clients).toHaveLength(2);
    await clients[1]!.arrival("read");
    expect(clients[1]!.held.length).toBeGreaterThanOrEqual(issued);
    clients[1]!.answerAll();
    await clients[1]!.arrival("read");
    expect(guestErrors(machine).count).toBe(0);
    const end = runner.stop();
    clients[1]!.answerAll();
    await end;
  });
});
