// The peer ws, on Node. `node ws.mjs echo|events|cbor|fanout` serves until killed.
import { createServer } from "node:http";
import { Encoder } from "cbor-x";
import { WebSocket, WebSocketServer } from "ws";

const role = process.argv[2];
const http = createServer();
const server = new WebSocketServer({ server: http }); // It has compression off, and sends no pings.
// Maps as others write and read them.
const cbor = new Encoder({ useRecords: false, mapsAsObjects: true, variableMapSize: true });

// What a program does with events that writes them by hand: it reads one, looks whether it knows it, and answers.
const handlers = new Map([["echo", (socket, data) => answer(socket, "echo", data)]]);

function answer(socket, event, data) {
  const content = { event, data };
  socket.send(role === "cbor" ? cbor.encode(content) : JSON.stringify(content));
}

function handle(socket, message) {
  try {
    const { event, data } = role === "cbor" ? cbor.decode(message) : JSON.parse(message);
    handlers.get(event)(socket, data);
  } catch {
    socket.close(1008);
  }
}

server.on("connection", (socket) => {
  socket.on("error", () => {}); // A client that is cut off is no reason to end.
  socket.on("message", (data, binary) => {
    if (role === "echo") {
      socket.send(data, { binary });
      return;
    }
    if (role === "events" || role === "cbor") {
      handle(socket, data);
      return;
    }
    for (const receiver of server.clients) {
      if (receiver.readyState === WebSocket.OPEN) receiver.send(data, { binary });
    }
  });
});
http.listen({ port: 0, host: "127.0.0.1", backlog: 65535 }, () =>
  console.log(`listening on ws://127.0.0.1:${http.address().port}`),
);
