// The peer uWebSockets, as Bun has it built in. `bun bun.mjs echo|fanout` serves until killed.
const role = process.argv[2];
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request, server) {
    if (!server.upgrade(request)) return new Response("", { status: 426 });
  },
  websocket: {
    idleTimeout: 0,
    sendPings: false,
    perMessageDeflate: false,
    open(socket) {
      if (role === "fanout") socket.subscribe("all");
    },
    message(socket, data) {
      if (role === "echo") socket.send(data);
      else server.publish("all", data);
    },
  },
});
console.log(`listening on ws://127.0.0.1:${server.port}`);
