"""gRPC servicers of the engine: each method converts a request, calls the collection and converts the result."""

# ruff: noqa: N802, ARG002 - method names are Qdrant's, and every method takes a request
from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import qdrant_edge as edge
from qdrant_client import grpc as messages

from gmvaluator.index.engine.checksums import CHECKED
from gmvaluator.index.engine.collection import BacklogFull, Collection, fail_fast
from gmvaluator.index.engine.generations import Description
from gmvaluator.index.engine.registry import Registry
from gmvaluator.index.engine.supported_api import Refused, invalid, require_supported
from gmvaluator.index.engine.wire_points import (
    add_records,
    add_scored,
    compared_ids,
    filter_of,
    from_payload,
    ids_of,
    point_of,
    query_of,
    scroll_of,
    to_point_id,
    with_payload_of,
    with_vectors_of,
)
from gmvaluator.index.engine.wire_settings import (
    collection_name,
    field_type,
    info_of,
    metadata_of,
    rebuilt_vectors,
    settings_of,
    threshold_of,
)

_log = logging.getLogger(__name__)
_MAX_POINTS = 10_000
"""Maximum number of points per upsert."""

_MAX_QUERIES = 1_000
"""Maximum number of queries per batch."""

_Method = Callable[[Any, Any], Any]


def _rpc(method: _Method) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """Wrap a servicer method: check the request, set the response's time, and turn exceptions into statuses."""

    @functools.wraps(method)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        start = time.perf_counter()
        try:
            require_supported(request)
            response = method(self, request)
        except Refused as refusal:
            code, text = refusal.code, str(refusal)
        except BacklogFull:
            code, text = grpc.StatusCode.RESOURCE_EXHAUSTED, "a build is under way: write again once it has ended"
        except Exception as error:  # noqa: BLE001 - qdrant-edge raises bare Exception
            _log.exception("%s failed", method.__name__)
            code, text = grpc.StatusCode.INTERNAL, f"the embedded engine failed: {error}"
        except BaseException as panic:  # noqa: BLE001 - a panic in qdrant-edge is a BaseException
            # After a panic the state in memory cannot be trusted.
            fail_fast(f"{method.__name__} panicked: {panic}")
        else:
            context.set_trailing_metadata((CHECKED,))
            if "time" in response.DESCRIPTOR.fields_by_name:
                response.time = time.perf_counter() - start
            return response
        return context.abort(code, text)

    return answer


class HealthService(messages.QdrantServicer):
    """The service qdrant.Qdrant."""

    def __init__(self, version: str) -> None:
        self._version = version

    @_rpc
    def HealthCheck(self, request: messages.HealthCheckRequest) -> messages.HealthCheckReply:
        return messages.HealthCheckReply(title="gmvaluator embedded engine", version=self._version)


class CollectionsService(messages.CollectionsServicer):
    """The service qdrant.Collections."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @_rpc
    def List(self, request: messages.ListCollectionsRequest) -> messages.ListCollectionsResponse:
        names = [messages.CollectionDescription(name=name) for name in self._registry.names()]
        return messages.ListCollectionsResponse(collections=names)

    @_rpc
    def Get(self, request: messages.GetCollectionInfoRequest) -> messages.GetCollectionInfoResponse:
        return messages.GetCollectionInfoResponse(result=info_of(self._registry.get(request.collection_name)))

    @_rpc
    def CollectionExists(self, request: messages.CollectionExistsRequest) -> messages.CollectionExistsResponse:
        exists = request.collection_name in (*self._registry.names(), *self._registry.aliases())
        return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=exists))

    @_rpc
    def Create(self, request: messages.CreateCollection) -> messages.CollectionOperationResponse:
        description = Description(settings_of(request), metadata_of(request))
        self._registry.create(collection_name(request.collection_name), description)
        return messages.CollectionOperationResponse(result=True)

    @_rpc
    def Update(self, request: messages.UpdateCollection) -> messages.CollectionOperationResponse:
        collection = self._registry.get(request.collection_name)
        rebuilt = rebuilt_vectors(request, collection.settings.vectors)
        if rebuilt is None:
            collection.describe(metadata_of(request), threshold_of(request))
        else:
            collection.describe({}, threshold_of(request))
            collection.request_rebuild(rebuilt, metadata_of(request))
        if rebuilt is not None or request.HasField("optimizers_config"):
            collection.start_build()
        return messages.CollectionOperationResponse(result=True)

    @_rpc
    def Delete(self, request: messages.DeleteCollection) -> messages.CollectionOperationResponse:
        self._registry.delete(request.collection_name)
        return messages.CollectionOperationResponse(result=True)

    @_rpc
    def ListAliases(self, request: messages.ListAliasesRequest) -> messages.ListAliasesResponse:
        return _aliases_response(self._registry.aliases())

    @_rpc
    def ListCollectionAliases(self, request: messages.ListCollectionAliasesRequest) -> messages.ListAliasesResponse:
        aliases = self._registry.aliases()
        return _aliases_response({alias: name for alias, name in aliases.items() if name == request.collection_name})

    @_rpc
    def UpdateAliases(self, request: messages.ChangeAliases) -> messages.CollectionOperationResponse:
        self._registry.change_aliases([_alias_change(action) for action in request.actions])
        return messages.CollectionOperationResponse(result=True)


def _aliases_response(aliases: dict[str, str]) -> messages.ListAliasesResponse:
    return messages.ListAliasesResponse(
        aliases=[messages.AliasDescription(alias_name=alias, collection_name=name) for alias, name in aliases.items()]
    )


def _alias_change(action: messages.AliasOperations) -> tuple[str, str | None]:
    if action.WhichOneof("action") == "delete_alias":
        return action.delete_alias.alias_name, None
    return collection_name(action.create_alias.alias_name), action.create_alias.collection_name


class PointsService(messages.PointsServicer):
    """The service qdrant.Points."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @_rpc
    def Upsert(self, request: messages.UpsertPoints) -> messages.PointsOperationResponse:
        collection = self._registry.get(request.collection_name)
        if len(request.points) > _MAX_POINTS:
            raise invalid(f"{len(request.points)} points in one call are refused: send {_MAX_POINTS} at most")
        points = [point_of(point, collection.settings.vectors) for point in request.points]
        return _write(collection, edge.UpdateOperation.upsert_points(points), request)

    @_rpc
    def Delete(self, request: messages.DeletePoints) -> messages.PointsOperationResponse:
        operation = edge.UpdateOperation
        deletion = _operation_on(request.points, operation.delete_points, operation.delete_points_by_filter)
        return _write(self._registry.get(request.collection_name), deletion, request)

    @_rpc
    def SetPayload(self, request: messages.SetPayloadPoints) -> messages.PointsOperationResponse:
        by_ids, by_filter = edge.UpdateOperation.set_payload, edge.UpdateOperation.set_payload_by_filter
        change = _operation_on(request.points_selector, by_ids, by_filter, from_payload(request.payload))
        return _write(self._registry.get(request.collection_name), change, request)

    @_rpc
    def DeletePayload(self, request: messages.DeletePayloadPoints) -> messages.PointsOperationResponse:
        by_ids, by_filter = edge.UpdateOperation.delete_payload, edge.UpdateOperation.delete_payload_by_filter
        change = _operation_on(request.points_selector, by_ids, by_filter, list(request.keys))
        return _write(self._registry.get(request.collection_name), change, request)

    @_rpc
    def CreateFieldIndex(self, request: messages.CreateFieldIndexCollection) -> messages.PointsOperationResponse:
        operation = edge.UpdateOperation.create_field_index(request.field_name, field_type(request))
        return _write(self._registry.get(request.collection_name), operation, request)

    @_rpc
    def Get(self, request: messages.GetPoints) -> messages.GetResponse:
        ids = ids_of(request.ids)
        payload, vectors = with_payload_of(request.with_payload, absent=True), with_vectors_of(request.with_vectors)
        collection = self._registry.get(request.collection_name)
        records = collection.read(lambda shard: shard.retrieve(ids, payload, vectors))
        response = messages.GetResponse()
        add_records(response.result, records)
        return response

    @_rpc
    def Query(self, request: messages.QueryPoints) -> messages.QueryResponse:
        response = messages.QueryResponse()
        self._check_compared([request], request.collection_name)
        self._query(request, request.collection_name, response.result)
        return response

    @_rpc
    def QueryBatch(self, request: messages.QueryBatchPoints) -> messages.QueryBatchResponse:
        if len(request.query_points) > _MAX_QUERIES:
            raise invalid(f"{len(request.query_points)} queries in one call are refused: send {_MAX_QUERIES} at most")
        response = messages.QueryBatchResponse()
        self._check_compared(request.query_points, request.collection_name)
        for query in request.query_points:
            self._query(query, request.collection_name, response.result.add().result)
        return response

    def _check_compared(self, requests: Sequence[messages.QueryPoints], name: str) -> None:
        """Raise Refused (DATA_LOSS) if a point that the queries compare exactly has damaged vectors."""
        compared = compared_ids(requests)
        damaged = self._registry.get(name).damaged(compared) if compared else {}
        if damaged:
            point, reason = min(damaged.items(), key=str)
            _log.error("damaged vectors: %s", ", ".join(map(str, damaged)))
            text = (
                f"the stored vectors of {len(damaged)} of {len(compared)} points are damaged, as of {point}: {reason}"
            )
            raise Refused(grpc.StatusCode.DATA_LOSS, text)

    def _query(self, request: messages.QueryPoints, name: str, result: Any) -> None:
        collection = self._registry.get(name)
        query = query_of(request, collection.settings.vectors)
        add_scored(result, collection.read(lambda shard: shard.query(query)))

    @_rpc
    def Scroll(self, request: messages.ScrollPoints) -> messages.ScrollResponse:
        scroll = scroll_of(request)
        records, following = self._registry.get(request.collection_name).read(lambda shard: shard.scroll(scroll))
        response = messages.ScrollResponse()
        add_records(response.result, records)
        if following is not None:
            response.next_page_offset.CopyFrom(to_point_id(following))
        return response

    @_rpc
    def Count(self, request: messages.CountPoints) -> messages.CountResponse:
        selection = filter_of(request.filter) if request.HasField("filter") else None
        count = edge.CountRequest(exact=True, filter=selection)
        number = self._registry.get(request.collection_name).read(lambda shard: shard.count(count))
        return messages.CountResponse(result=messages.CountResult(count=number))


def _operation_on(
    selector: messages.PointsSelector,
    by_ids: Callable[..., edge.UpdateOperation],
    by_filter: Callable[..., edge.UpdateOperation],
    *arguments: Any,
) -> edge.UpdateOperation:
    """Build the operation on the points that `selector` selects. Raises Refused for a filter without a condition."""
    if selector.WhichOneof("points_selector_one_of") != "filter":
        return by_ids(ids_of(selector.points.ids), *arguments)
    conditions = selector.filter
    if not (conditions.must or conditions.should or conditions.must_not):
        raise invalid("an empty filter would choose every point: give a condition")
    return by_filter(filter_of(conditions), *arguments)


def _write(collection: Collection, operation: edge.UpdateOperation, request: Any) -> messages.PointsOperationResponse:
    collection.write(operation, request.ByteSize())
    completed = messages.UpdateResult(operation_id=0, status=messages.UpdateStatus.Completed)
    return messages.PointsOperationResponse(result=completed)
