// gRPC clients of npm that make calls as they are told, by the lines that grpc_callers.py says.
//
//     grpc-clients.mjs grpc-js|connect-node FOLDER   # where node_modules is
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";

const [client, folder] = process.argv.slice(2);
const require = createRequire(`${path.resolve(folder)}/`);
const say = (line) => console.log(JSON.stringify(line));
const data = (size) => (size ? Buffer.alloc(size) : Buffer.from("ab"));

function grpcJs() {
  const grpc = require("@grpc/grpc-js");
  const channels = {};
  const encode = (value) => value;
  const end = (id, { code, details }) => say({ id, code: grpc.status[code], details });

  return ({ id, port, path, kind, timeout, metadata = [], size, hold }) => {
    // Channels to one port would share a connection otherwise.
    channels[port] ??= new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
      "grpc.use_local_subchannel_pool": 1,
    });
    const fields = new grpc.Metadata();
    for (const [name, value] of metadata) fields.add(name, value);
    const options = timeout ? { deadline: Date.now() + timeout * 1000 } : {};
    const decode = (data) => data;
    if (kind === "unary") {
      channels[port].makeUnaryRequest(path, encode, decode, data(size), fields, options, (error, message) => {
        if (message) say({ id, message: true });
        end(id, error ?? { code: grpc.status.OK, details: "" });
      });
      return () => {};
    }
    const call = channels[port].makeServerStreamRequest(path, encode, decode, data(size), fields, options);
    let ended = false;
    let held = hold;
    call.on("data", () => {
      say({ id, message: true });
      if (held) call.pause();
    });
    call.on("error", (error) => {
      ended = true;
      end(id, error);
    });
    call.on("end", () => ended || setImmediate(() => ended || end(id, { code: grpc.status.OK, details: "" })));
    return () => {
      held = false;
      call.resume();
    };
  };
}

function connectNode() {
  const { Code, ConnectError } = require("@connectrpc/connect");
  const { createGrpcTransport } = require("@connectrpc/connect-node");
  const { create, createFileRegistry } = require("@bufbuild/protobuf");
  const wkt = require("@bufbuild/protobuf/wkt");
  const { BytesValueSchema, FileDescriptorProtoSchema, file_google_protobuf_wrappers: wrappers } = wkt;
  const transports = {};
  const screaming = (name) => name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();

  // The descriptor that protoc would have made of a file with the method.
  function methodOf(path, kind) {
    const [, service, name] = path.split("/");
    const [, pkg, local] = service.match(/^(.*)\.([^.]*)$/);
    const type = `.${BytesValueSchema.typeName}`;
    const method = { name, inputType: type, outputType: type, serverStreaming: kind === "stream" };
    const described = create(FileDescriptorProtoSchema, {
      name: "calls.proto",
      package: pkg,
      syntax: "proto3",
      dependency: [wrappers.proto.name],
      service: [{ name: local, method: [method] }],
    });
    const registry = createFileRegistry(described, () => wrappers.proto);
    return registry.getService(service).methods[0];
  }

  async function call({ id, port, path, kind, timeout, metadata = [], size, hold }, read) {
    transports[port] ??= createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}` });
    const message = create(BytesValueSchema, { value: data(size) });
    const args = [methodOf(path, kind), undefined, timeout && timeout * 1000, metadata];
    try {
      if (kind === "unary") {
        await transports[port].unary(...args, message);
        say({ id, message: true });
      } else {
        const response = await transports[port].stream(...args, (async function* () { yield message; })());
        for await (const _ of response.message) {
          say({ id, message: true });
          if (hold) await read;
        }
      }
      say({ id, code: "OK", details: "" });
    } catch (error) {
      const known = error instanceof ConnectError;
      // gRPC spells one of its codes otherwise.
      const code = known ? screaming(Code[error.code]).replace("CANCELED", "CANCELLED") : error.name;
      say({ id, code, details: known ? error.rawMessage : error.message });
    }
  }

  return (task) => {
    let go;
    call(task, new Promise((resolve) => (go = resolve)));
    return go;
  };
}

const make = { "grpc-js": grpcJs, "connect-node": connectNode }[client]();
const reads = {};
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const task = JSON.parse(line);
  if ("read" in task) reads[task.read]();
  else reads[task.id] = make(task);
}).on("close", () => process.exit());
