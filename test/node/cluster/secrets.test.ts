import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import {
  type ClusterSecret,
  decodeSecret,
  encodeSecret,
  SECRETS_MAX,
  SecretSet,
} from "../../../node/cluster/secrets.ts";

function secret(epoch: number, othersEndAtMs = 0): ClusterSecret {
  return { epoch, othersEndAtMs, secret: new Uint8Array(randomBytes(32)) };
}

test("the newest is used first, and the others are accepted until its overlap ends", () => {
  const [first, second, third] = [secret(1), secret(2, 100), secret(3, 200)];
  const set = new SecretSet([first, second]);
  expect(set.accepted(99)).toEqual([second, first]);
  expect(set.accepted(100)).toEqual([second]);
  set.add(third);
  expect(set.accepted(99)).toEqual([third, second, first]);
  expect(set.accepted(150)).toEqual([third, second]);
  expect(set.accepted(200)).toEqual([third]);
});

test("two members that rotate at once agree, in whatever order they hear of each other", () => {
  const [first, one, other] = [secret(1), secret(2, 50), secret(2, 60)];
  const here = new SecretSet([first, one]);
  const there = new SecretSet([first, other]);
  here.add(other);
  there.add(one);
  expect(here.all()).toEqual(there.all());
  expect(here.ids()).toEqual(there.ids());
  expect(here.add(one)).toBe(false);
});

test("a set stays small, and does not believe in an epoch far ahead", () => {
  const set = new SecretSet([secret(1)]);
  for (let epoch = 2; epoch < 40; epoch++) set.add(secret(epoch));
  expect(set.all()).toHaveLength(SECRETS_MAX);
  expect(set.all()[0]!.epoch).toBe(39);
  expect(set.add(secret(1))).toBe(false);
  expect(() => set.add(secret(2 ** 31))).toThrow(expect.objectContaining({ name: "ProtocolError" }));
});

test("a secret travels as it is; noise is refused", () => {
  const original = secret(7, 1_900_000_000_000);
  const bytes = encodeSecret(original);
  expect(decodeSecret(bytes)).toEqual(original);
  for (let size = 0; size < bytes.length; size++) {
    expect(() => decodeSecret(bytes.subarray(0, size))).toThrow(
      expect.objectContaining({ name: "ProtocolError" }),
    );
  }
  expect(() => decodeSecret(Uint8Array.of(...bytes, 0))).toThrow(
    expect.objectContaining({ name: "ProtocolError" }),
  );
});
