/** The commands of NBD by name, over whatever submits requests. */
import { NBD_CMD, NBD_CMD_FLAG } from "./constants.ts";
import type { StatusExtent } from "./metadata-contexts.ts";

/** A request as it goes out; `data` of a write stays unchanged until the answer. */
export type NbdRequest = {
  /** One of NBD_CMD. */
  readonly command: number;
  /** NBD_CMD_FLAG bits. */
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly data?: Uint8Array;
};

export type NbdAnswer = {
  /** Of a READ. */
  readonly data: Buffer | undefined;
  /** Of a BLOCK_STATUS, by the name of the context; they may cover less than was asked for. */
  readonly extents: ReadonlyMap<string, readonly StatusExtent[]>;
};

/** Every command rejects with `NbdError`; `NBD_REPLY_ERROR` carries the server's error number. */
export abstract class NbdCommands {
  abstract submit(request: NbdRequest): Promise<NbdAnswer>;

  async read(offset: number, length: number): Promise<Buffer> {
    const { data } = await this.submit({ command: NBD_CMD.READ, flags: 0, offset, length });
    return data!;
  }

  async write(offset: number, data: Uint8Array, { fua = false }: { fua?: boolean } = {}): Promise<void> {
    const flags = fua ? NBD_CMD_FLAG.FUA : 0;
    await this.submit({ command: NBD_CMD.WRITE, flags, offset, length: data.length, data });
  }

  /** Everything answered before this is durable when it resolves. */
  async flush(): Promise<void> {
    await this.submit({ command: NBD_CMD.FLUSH, flags: 0, offset: 0, length: 0 });
  }

  async trim(offset: number, length: number, { fua = false }: { fua?: boolean } = {}): Promise<void> {
    await this.submit({ command: NBD_CMD.TRIM, flags: fua ? NBD_CMD_FLAG.FUA : 0, offset, length });
  }

  async writeZeroes(
    offset: number,
    length: number,
    options: { fua?: boolean; noHole?: boolean; fastZero?: boolean } = {},
  ): Promise<void> {
    const flags =
      (options.fua === true ? NBD_CMD_FLAG.FUA : 0) |
      (options.noHole === true ? NBD_CMD_FLAG.NO_HOLE : 0) |
      (options.fastZero === true ? NBD_CMD_FLAG.FAST_ZERO : 0);
    await this.submit({ command: NBD_CMD.WRITE_ZEROES, flags, offset, length });
  }

  async blockStatus(
    offset: number,
    length: number,
    { requestOne = false }: { requestOne?: boolean } = {},
  ): Promise<ReadonlyMap<string, readonly StatusExtent[]>> {
    const flags = requestOne ? NBD_CMD_FLAG.REQ_ONE : 0;
    const { extents } = await this.submit({ command: NBD_CMD.BLOCK_STATUS, flags, offset, length });
    return extents;
  }
}
