import { describe, expect, it } from "vitest";
import { MachineDriver, type MachineParts } from "../../../node/migration/machine-driver.ts";

type State = { seen: readonly string[] };
type Effect = { name: string };

function driver(parts: Partial<MachineParts<State, string, Effect>>): MachineDriver<State, string, Effect> {
  return new MachineDriver<State, string, Effect>(
    { seen: [] },
    {
      step: ({ seen }, event) => [{ seen: [...seen, event] }, []],
      perform: () => undefined,
      changed: () => undefined,
      failed: (error) => {
        throw error;
      },
      ...parts,
    },
  );
}

describe("machine driver", () => {
  it("begins an effect only when the one before it is done", async () => {
    const trace: string[] = [];
    const gate = Promise.withResolvers<void>();
    const machine = driver({
      step: (state) => [state, [{ name: "persist" }, { name: "send" }]],
      perform: async ({ name }) => {
        trace.push(`${name} begins`);
        if (name === "persist") await gate.promise;
        trace.push(`${name} ends`);
      },
    });
    machine.post("go");
    await Promise.resolve();
    await Promise.resolve();
    expect(trace).toEqual(["persist begins"]);
    gate.resolve();
    await machine.idle();
    expect(trace).toEqual(["persist begins", "persist ends", "send begins", "send ends"]);
  });

  it("takes no event while the effects of another one are performed", async () => {
    const trace: string[] = [];
    const machine = driver({
      step: (state, event) => [state, [{ name: event }]],
      perform: async ({ name }) => {
        trace.push(`${name} begins`);
        await Promise.resolve();
        trace.push(`${name} ends`);
      },
    });
    machine.post("a");
    machine.post("b");
    await machine.idle();
    expect(trace).toEqual(["a begins", "a ends", "b begins", "b ends"]);
  });

  it("lets an effect's answer wait for the effects behind it", async () => {
    const trace: string[] = [];
    const machine: MachineDriver<State, string, Effect> = driver({
      step: (state, event) => {
        trace.push(event);
        return [state, event === "go" ? [{ name: "answers at once" }, { name: "second" }] : []];
      },
      perform: ({ name }) => {
        trace.push(name);
        if (name === "answers at once") machine.post("answer");
      },
    });
    machine.post("go");
    await machine.idle();
    expect(trace).toEqual(["go", "answers at once", "second", "answer"]);
  });

  it("shows a failure to the machine before anything that was posted meanwhile", async () => {
    const machine: MachineDriver<State, string, Effect> = driver({
      step: ({ seen }, event) => [{ seen: [...seen, event] }, event === "go" ? [{ name: "breaks" }] : []],
      perform: () => {
        machine.post("later");
        throw new Error("it broke");
      },
      failed: () => "failed",
    });
    machine.post("go");
    await machine.idle();
    expect(machine.state.seen).toEqual(["go", "failed", "later"]);
  });

  it("takes nothing after stop", async () => {
    const machine = driver({});
    machine.post("a");
    await machine.stop();
    machine.post("b");
    await machine.idle();
    expect(machine.state.seen).not.toContain("b");
  });
});
