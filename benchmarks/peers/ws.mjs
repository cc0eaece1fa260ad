// The peer ws, on Node. `node ws.mjs echo|fanout` serves until killed.
import { createServer } from "node:http";
import { WebSocket, WebSocketServer } from "ws";

const role = process.argv[2];
const http = createServer();
const server = new WebSocketServer({ server: http }); // It has compression off, and sends no pings.

server.on("connection", (socket) => {
  socket.on("error", () => {}); // A client that is cut off is no reason to end.
  socket.on("message", (data, binary) => {
    if (role === "echo") {
      socket.send(data, { binary });
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
