"""Pictures that are fetched: each with its own failure, all within the request's time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from lensmith_api.v1.inference_service_pb2 import ImageQuery, PredictRequest, PredictResponse
from lensmith_api.v1.input_pb2 import Image
from lensmith_platform.errors import from_status
from lensmith_vision.pack import builtin_pack
from tests.lensmith_inference.conftest import Rig, rig_of
from tests.lensmith_inference.test_predict import MODEL
from tests.pictures import picture
from tests.polling import until


class Site:
    """A web server that counts how many it serves at once: `/slow` never answers, `/7` is a picture, others are 404."""

    def __init__(self) -> None:
        self.port = 0
        self.now = 0
        self.most = 0
        self.stop = asyncio.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode().removeprefix("/")
            if path == "slow":
                await self.stop.wait()
                return
            await asyncio.sleep(0.01)  # long enough for requests to overlap
            body = picture(int(path)) if path.isdigit() else b""
            status = "200 OK" if body else "404 Not Found"
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
            )
            await writer.drain()
        finally:
            self.now -= 1
            writer.close()


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.stop.set()
        server.close()
        await server.wait_closed()


def fetched(*urls: str) -> list[ImageQuery]:
    return [ImageQuery(id=url, image=Image(url=url)) for url in urls]


async def test_only_bad_addresses_fail_when_pictures_are_fetched(tmp_path: Path, nats_url: str) -> None:
    settings = {"allow_private_urls": True, "fetch_seconds": 2.0}
    async with site() as web, rig_of(tmp_path, nats_url, [builtin_pack()], **settings) as rig:
        rig.add_model("sorter")
        inputs = [
            *fetched(web.url("1"), web.url("none"), "ftp://127.0.0.1/x", web.url("slow")),
            ImageQuery(image=Image(content=picture(1))),
        ]
        request = PredictRequest(model=MODEL, inputs=inputs)
        response = await rig.stub.Predict(request, metadata=rig.key())
        codes = [one.status.code for one in response.predictions]
        assert codes[0] == codes[4] == 0
        assert all(codes[1:4])
        assert from_status(response.predictions[3].status).reason == "URL_TIMEOUT"
        sent, own = response.predictions[0], response.predictions[4]
        assert [one.value for one in sent.concepts] == pytest.approx([one.value for one in own.concepts], abs=1e-6)


async def test_few_are_fetched_at_once_when_many_are_asked_for(tmp_path: Path, nats_url: str) -> None:
    settings = {"allow_private_urls": True, "fetch_concurrency": 3}
    async with site() as web, rig_of(tmp_path, nats_url, [builtin_pack()], **settings) as rig:
        rig.add_model("sorter")
        inputs = fetched(*(web.url(str(number)) for number in range(40)))
        response = await rig.stub.Predict(PredictRequest(model=MODEL, inputs=inputs), metadata=rig.key())
        assert [one.status.code for one in response.predictions] == [0] * 40
        assert 1 < web.most <= 3


async def test_private_addresses_are_refused_when_settings_do_not_allow_them(rig: Rig) -> None:
    rig.add_model("sorter")
    async with site() as web:
        request = PredictRequest(model=MODEL, inputs=fetched(web.url("1")))
        response = await rig.stub.Predict(request, metadata=rig.key())
        assert response.predictions[0].status.code == 3
        assert from_status(response.predictions[0].status).reason.startswith("URL_")
        assert web.most == 0


async def test_other_pictures_are_answered_in_time_when_slow_addresses_take_all_turns(
    tmp_path: Path, nats_url: str
) -> None:
    settings = {"allow_private_urls": True, "fetch_concurrency": 1}
    async with site() as web, rig_of(tmp_path, nats_url, [builtin_pack()], **settings) as rig:
        rig.add_model("sorter")
        inputs = [*fetched(*[web.url("slow")] * 3), ImageQuery(image=Image(content=picture(1)))]
        request = PredictRequest(model=MODEL, inputs=inputs)

        async def in_time() -> PredictResponse | None:
            try:
                return await rig.stub.Predict(request, metadata=rig.key(), timeout=3.0)
            except grpc.aio.AioRpcError as error:
                # A machine may be too busy for the answer to arrive in the time that is left for it.
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                return None

        response = await until(in_time)
        assert {from_status(one.status).reason for one in response.predictions[:3]} == {"URL_TIMEOUT"}
        assert response.predictions[3].status.code == 0
