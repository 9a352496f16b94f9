import java.util.HexFormat;
import java.util.List;
import org.agrona.concurrent.UnsafeBuffer;
import org.tensorpool.discovery.DiscoveryRequestEncoder;
import org.tensorpool.discovery.DiscoveryResponseEncoder;
import org.tensorpool.discovery.DiscoveryStatus;
import org.tensorpool.driver.HugepagesPolicy;
import org.tensorpool.driver.LeaseRevokeReason;
import org.tensorpool.driver.PublishMode;
import org.tensorpool.driver.ResponseCode;
import org.tensorpool.driver.Role;
import org.tensorpool.driver.ShmAttachRequestEncoder;
import org.tensorpool.driver.ShmAttachResponseEncoder;
import org.tensorpool.driver.ShmDetachRequestEncoder;
import org.tensorpool.driver.ShmDetachResponseEncoder;
import org.tensorpool.driver.ShmDriverShutdownEncoder;
import org.tensorpool.driver.ShmDriverShutdownRequestEncoder;
import org.tensorpool.driver.ShmLeaseKeepaliveEncoder;
import org.tensorpool.driver.ShmLeaseRevokedEncoder;
import org.tensorpool.driver.ShutdownReason;
import org.tensorpool.wire.Bool;
import org.tensorpool.wire.ClockDomain;
import org.tensorpool.wire.ConsumerConfigEncoder;
import org.tensorpool.wire.ConsumerHelloEncoder;
import org.tensorpool.wire.ControlResponseEncoder;
import org.tensorpool.wire.DataSourceAnnounceEncoder;
import org.tensorpool.wire.DataSourceMetaEncoder;
import org.tensorpool.wire.Dtype;
import org.tensorpool.wire.FrameDescriptorEncoder;
import org.tensorpool.wire.FrameProgressEncoder;
import org.tensorpool.wire.FrameProgressState;
import org.tensorpool.wire.MajorOrder;
import org.tensorpool.wire.MetaBlobAnnounceEncoder;
import org.tensorpool.wire.MetaBlobChunkEncoder;
import org.tensorpool.wire.MetaBlobCompleteEncoder;
import org.tensorpool.wire.Mode;
import org.tensorpool.wire.ProgressUnit;
import org.tensorpool.wire.QosConsumerEncoder;
import org.tensorpool.wire.QosProducerEncoder;
import org.tensorpool.wire.RegionType;
import org.tensorpool.wire.ShmPoolAnnounceEncoder;
import org.tensorpool.wire.ShmRegionSuperblockEncoder;
import org.tensorpool.wire.SlotHeaderEncoder;
import org.tensorpool.wire.TensorHeaderEncoder;

/**
 * The vectors. Their expected values are written down a second time, independently, in the test that reads
 * them (tests/golden.rs).
 */
final class Vectors
{
    private static final String POOL_URI = "shm:file?path=/dev/shm/tp/1.pool";
    private static final String RING_URI = "shm:file?path=/dev/shm/tp/header.ring|require_hugepages=true";
    private static final long MAGIC = 0x544F504C53484D31L;

    private final UnsafeBuffer buffer = new UnsafeBuffer(new byte[4096]);
    private final org.tensorpool.wire.MessageHeaderEncoder wire = new org.tensorpool.wire.MessageHeaderEncoder();
    private final org.tensorpool.driver.MessageHeaderEncoder driver =
        new org.tensorpool.driver.MessageHeaderEncoder();
    private final org.tensorpool.discovery.MessageHeaderEncoder discovery =
        new org.tensorpool.discovery.MessageHeaderEncoder();
    private final List<String> lines;

    Vectors(final List<String> lines)
    {
        this.lines = lines;
    }

    void encodeAll()
    {
        announce();
        consumer();
        frames();
        qos();
        metadata();
        attach();
        leases();
        shutdown();
        discovery();
        memory();
    }

    private void add(final String name, final int limit)
    {
        final byte[] bytes = new byte[limit];
        buffer.getBytes(0, bytes);
        lines.add(name + " " + HexFormat.of().formatHex(bytes));
        buffer.setMemory(0, buffer.capacity(), (byte)0xEE);
    }

    private void announce()
    {
        final ShmPoolAnnounceEncoder announce = new ShmPoolAnnounceEncoder();
        announce.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).producerId(7).epoch(9).announceTimestampNs(1_000)
            .announceClockDomain(ClockDomain.MONOTONIC).layoutVersion(1).headerNslots(64).headerSlotBytes(256);
        announce.payloadPoolsCount(3)
            .next().poolId(1).poolNslots(64).strideBytes(4_096).regionUri(POOL_URI)
            .next().poolId(65_535).poolNslots(64).strideBytes(4_294_967_232L).regionUri("")
            .next().poolId(3).poolNslots(64).strideBytes(1_048_576).regionUri("shm:file?path=/a/3.pool");
        announce.headerRegionUri(RING_URI);
        add("ShmPoolAnnounce.three_pools", announce.limit());

        announce.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(0).producerId(4_294_967_295L).epoch(-1L).announceTimestampNs(-1L)
            .announceClockDomain(ClockDomain.REALTIME_SYNCED).layoutVersion(4_294_967_295L)
            .headerNslots(4_294_967_295L).headerSlotBytes(65_535);
        announce.payloadPoolsCount(0);
        announce.headerRegionUri("");
        add("ShmPoolAnnounce.empty_at_its_limits", announce.limit());
    }

    private void consumer()
    {
        final ConsumerHelloEncoder hello = new ConsumerHelloEncoder();
        hello.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).consumerId(8).supportsShm(Bool.TRUE).supportsProgress(Bool.FALSE).mode(Mode.STREAM)
            .maxRateHz(0).expectedLayoutVersion(1)
            .progressIntervalUs(ConsumerHelloEncoder.progressIntervalUsNullValue())
            .progressBytesDelta(ConsumerHelloEncoder.progressBytesDeltaNullValue())
            .progressMajorDeltaUnits(ConsumerHelloEncoder.progressMajorDeltaUnitsNullValue())
            .descriptorStreamId(0).controlStreamId(0)
            .descriptorChannel("").controlChannel("");
        add("ConsumerHello.nulls_and_empty", hello.limit());

        hello.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_001).consumerId(9).supportsShm(Bool.FALSE).supportsProgress(Bool.TRUE)
            .mode(Mode.RATE_LIMITED).maxRateHz(30).expectedLayoutVersion(0)
            .progressIntervalUs(250).progressBytesDelta(65_536).progressMajorDeltaUnits(0)
            .descriptorStreamId(31_000).controlStreamId(32_000)
            .descriptorChannel("aeron:ipc?term-length=1m").controlChannel("aeron:ipc");
        add("ConsumerHello.all", hello.limit());

        final ConsumerConfigEncoder config = new ConsumerConfigEncoder();
        config.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).consumerId(8).useShm(Bool.TRUE).mode(Mode.NULL_VAL)
            .descriptorStreamId(31_000).controlStreamId(0)
            .payloadFallbackUri("").descriptorChannel("aeron:ipc").controlChannel("");
        add("ConsumerConfig.descriptor_half", config.limit());

        config.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).consumerId(8).useShm(Bool.FALSE).mode(Mode.RATE_LIMITED)
            .descriptorStreamId(0).controlStreamId(32_999)
            .payloadFallbackUri("bridge://5").descriptorChannel("").controlChannel("aeron:ipc");
        add("ConsumerConfig.fallback", config.limit());

        final ControlResponseEncoder response = new ControlResponseEncoder();
        response.wrapAndApplyHeader(buffer, 0, wire)
            .correlationId(-5).code(org.tensorpool.wire.ResponseCode.INTERNAL_ERROR).errorMessage("try again");
        add("ControlResponse.internal_error", response.limit());
    }

    private void frames()
    {
        final FrameDescriptorEncoder descriptor = new FrameDescriptorEncoder();
        descriptor.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).epoch(9).seq(5)
            .timestampNs(FrameDescriptorEncoder.timestampNsNullValue())
            .metaVersion(FrameDescriptorEncoder.metaVersionNullValue())
            .traceId(FrameDescriptorEncoder.traceIdNullValue());
        add("FrameDescriptor.nulls", descriptor.limit());

        descriptor.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(4_294_967_294L).epoch(0x0102030405060708L).seq(Long.MAX_VALUE - 1)
            .timestampNs(0x1112131415161718L).metaVersion(0).traceId(-1L);
        add("FrameDescriptor.all", descriptor.limit());

        final FrameProgressEncoder progress = new FrameProgressEncoder();
        final FrameProgressState[] states = {
            FrameProgressState.UNKNOWN, FrameProgressState.STARTED, FrameProgressState.PROGRESS,
            FrameProgressState.COMPLETE, FrameProgressState.NULL_VAL };
        for (final FrameProgressState state : states)
        {
            progress.wrapAndApplyHeader(buffer, 0, wire)
                .streamId(10_000).epoch(9).seq(5).payloadBytesFilled(4_096).state(state);
            add("FrameProgress." + state.name().toLowerCase(), progress.limit());
        }
    }

    private void qos()
    {
        final QosConsumerEncoder consumer = new QosConsumerEncoder();
        consumer.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).consumerId(8).epoch(9).lastSeqSeen(5).dropsGap(1).dropsLate(-1L)
            .mode(Mode.STREAM);
        add("QosConsumer.all", consumer.limit());

        final QosProducerEncoder producer = new QosProducerEncoder();
        producer.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).producerId(7).epoch(9).currentSeq(6)
            .watermark(QosProducerEncoder.watermarkNullValue());
        add("QosProducer.nulls", producer.limit());

        producer.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).producerId(7).epoch(9).currentSeq(6).watermark(12);
        add("QosProducer.all", producer.limit());
    }

    private void metadata()
    {
        final DataSourceAnnounceEncoder announce = new DataSourceAnnounceEncoder();
        announce.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).producerId(7).epoch(9).metaVersion(3).name("camera-left").summary("left eye");
        add("DataSourceAnnounce.all", announce.limit());

        final DataSourceMetaEncoder meta = new DataSourceMetaEncoder();
        meta.wrapAndApplyHeader(buffer, 0, wire).streamId(10_000).metaVersion(3).timestampNs(1_000);
        meta.attributesCount(3)
            .next().key("width").format("text/plain").putValue(new byte[]{ '6', '4', '0' }, 0, 3)
            .next().key("").format("").putValue(new byte[0], 0, 0)
            .next().key("gain").format("application/octet-stream")
            .putValue(new byte[]{ 0, (byte)0xFF, (byte)0x80, 1 }, 0, 4);
        add("DataSourceMeta.three_attributes", meta.limit());

        meta.wrapAndApplyHeader(buffer, 0, wire).streamId(10_000).metaVersion(4).timestampNs(1_001);
        meta.attributesCount(0);
        add("DataSourceMeta.empty", meta.limit());

        final MetaBlobAnnounceEncoder blob = new MetaBlobAnnounceEncoder();
        blob.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).metaVersion(3).blobType(77).totalLen(5).checksum(0xC99465AAL);
        add("MetaBlobAnnounce.all", blob.limit());

        final MetaBlobChunkEncoder chunk = new MetaBlobChunkEncoder();
        chunk.wrapAndApplyHeader(buffer, 0, wire)
            .streamId(10_000).metaVersion(3).chunkOffset(2).putBytes(new byte[]{ 9, 8, 7 }, 0, 3);
        add("MetaBlobChunk.three_bytes", chunk.limit());

        final MetaBlobCompleteEncoder complete = new MetaBlobCompleteEncoder();
        complete.wrapAndApplyHeader(buffer, 0, wire).streamId(10_000).metaVersion(3).checksum(0xC99465AAL);
        add("MetaBlobComplete.all", complete.limit());
    }

    private void attach()
    {
        final ShmAttachRequestEncoder request = new ShmAttachRequestEncoder();
        request.wrapAndApplyHeader(buffer, 0, driver)
            .correlationId(0x0102030405060708L).streamId(10_000).clientId(7).role(Role.PRODUCER)
            .expectedLayoutVersion(1).publishMode(PublishMode.NULL_VAL)
            .requireHugepages(HugepagesPolicy.UNSPECIFIED)
            .desiredNodeId(ShmAttachRequestEncoder.desiredNodeIdNullValue());
        add("ShmAttachRequest.nulls", request.limit());

        request.wrapAndApplyHeader(buffer, 0, driver)
            .correlationId(Long.MIN_VALUE).streamId(0).clientId(4_294_967_295L).role(Role.CONSUMER)
            .expectedLayoutVersion(0).publishMode(PublishMode.EXISTING_OR_CREATE)
            .requireHugepages(HugepagesPolicy.HUGEPAGES).desiredNodeId(1_023);
        add("ShmAttachRequest.all", request.limit());

        final ShmAttachResponseEncoder response = new ShmAttachResponseEncoder();
        response.wrapAndApplyHeader(buffer, 0, driver)
            .correlationId(5).code(ResponseCode.OK).leaseId(42).leaseExpiryTimestampNs(3_000_000_000L)
            .streamId(10_000).epoch(9).layoutVersion(1).headerNslots(64).headerSlotBytes(256).nodeId(1);
        response.payloadPoolsCount(2)
            .next().poolId(1).poolNslots(64).strideBytes(4_096).regionUri(POOL_URI)
            .next().poolId(2).poolNslots(64).strideBytes(1_048_576).regionUri("shm:file?path=/a/2.pool");
        response.headerRegionUri(RING_URI).errorMessage("");
        add("ShmAttachResponse.ok", response.limit());

        response.wrapAndApplyHeader(buffer, 0, driver)
            .correlationId(5).code(ResponseCode.REJECTED)
            .leaseId(ShmAttachResponseEncoder.leaseIdNullValue())
            .leaseExpiryTimestampNs(ShmAttachResponseEncoder.leaseExpiryTimestampNsNullValue())
            .streamId(ShmAttachResponseEncoder.streamIdNullValue())
            .epoch(ShmAttachResponseEncoder.epochNullValue())
            .layoutVersion(ShmAttachResponseEncoder.layoutVersionNullValue())
            .headerNslots(ShmAttachResponseEncoder.headerNslotsNullValue())
            .headerSlotBytes(ShmAttachResponseEncoder.headerSlotBytesNullValue())
            .nodeId(ShmAttachResponseEncoder.nodeIdNullValue());
        response.payloadPoolsCount(0);
        response.headerRegionUri("").errorMessage("client_id already attached");
        add("ShmAttachResponse.rejected", response.limit());
    }

    private void leases()
    {
        final ShmDetachRequestEncoder detach = new ShmDetachRequestEncoder();
        detach.wrapAndApplyHeader(buffer, 0, driver)
            .correlationId(6).leaseId(-2L).streamId(10_000).clientId(7).role(Role.PRODUCER);
        add("ShmDetachRequest.all", detach.limit());

        final ShmDetachResponseEncoder detached = new ShmDetachResponseEncoder();
        detached.wrapAndApplyHeader(buffer, 0, driver)
            .correlationId(6).code(ResponseCode.OK).errorMessage("");
        add("ShmDetachResponse.ok", detached.limit());

        final ShmLeaseKeepaliveEncoder keepalive = new ShmLeaseKeepaliveEncoder();
        keepalive.wrapAndApplyHeader(buffer, 0, driver)
            .leaseId(42).streamId(10_000).clientId(7).role(Role.CONSUMER).clientTimestampNs(123_456_789);
        add("ShmLeaseKeepalive.all", keepalive.limit());

        final ShmLeaseRevokedEncoder revoked = new ShmLeaseRevokedEncoder();
        for (final LeaseRevokeReason reason : LeaseRevokeReason.values())
        {
            revoked.wrapAndApplyHeader(buffer, 0, driver)
                .timestampNs(1_000).leaseId(42).streamId(10_000).clientId(7).role(Role.PRODUCER)
                .reason(reason).errorMessage("because");
            add("ShmLeaseRevoked." + reason.name().toLowerCase(), revoked.limit());
        }
    }

    private void shutdown()
    {
        final ShmDriverShutdownEncoder shutdown = new ShmDriverShutdownEncoder();
        shutdown.wrapAndApplyHeader(buffer, 0, driver)
            .timestampNs(1_000).reason(ShutdownReason.ERROR).errorMessage("disk full");
        add("ShmDriverShutdown.error", shutdown.limit());

        final ShmDriverShutdownRequestEncoder request = new ShmDriverShutdownRequestEncoder();
        request.wrapAndApplyHeader(buffer, 0, driver)
            .correlationId(8).reason(ShutdownReason.ADMIN).token("secret").errorMessage("");
        add("ShmDriverShutdownRequest.admin", request.limit());
    }

    private void discovery()
    {
        final DiscoveryRequestEncoder request = new DiscoveryRequestEncoder();
        request.wrapAndApplyHeader(buffer, 0, discovery)
            .requestId(1).clientId(7).responseStreamId(7_004)
            .streamId(DiscoveryRequestEncoder.streamIdNullValue())
            .producerId(DiscoveryRequestEncoder.producerIdNullValue())
            .dataSourceId(DiscoveryRequestEncoder.dataSourceIdNullValue());
        request.tagsCount(0);
        request.responseChannel("aeron:ipc").dataSourceName("");
        add("DiscoveryRequest.nulls_and_no_tags", request.limit());

        request.wrapAndApplyHeader(buffer, 0, discovery)
            .requestId(-1L).clientId(7).responseStreamId(7_004).streamId(10_000).producerId(0).dataSourceId(0);
        request.tagsCount(3).next().tag("ab").next().tag("").next().tag("left camera");
        request.responseChannel("aeron:ipc").dataSourceName("camera-left");
        add("DiscoveryRequest.three_tags", request.limit());

        final DiscoveryResponseEncoder response = new DiscoveryResponseEncoder();
        response.wrapAndApplyHeader(buffer, 0, discovery).requestId(1).status(DiscoveryStatus.OK);
        final DiscoveryResponseEncoder.ResultsEncoder results = response.resultsCount(2);
        results.next().streamId(10_000).producerId(7).epoch(9).layoutVersion(1).headerNslots(64)
            .headerSlotBytes(256).maxDims((short)8)
            .dataSourceId(DiscoveryResponseEncoder.ResultsEncoder.dataSourceIdNullValue())
            .driverControlStreamId(1_000);
        results.payloadPoolsCount(2)
            .next().poolId(1).poolNslots(64).strideBytes(4_096).regionUri(POOL_URI)
            .next().poolId(2).poolNslots(64).strideBytes(8_192).regionUri("shm:file?path=/a/2.pool");
        results.tagsCount(2).next().tag("left").next().tag("Camera");
        results.headerRegionUri(RING_URI).dataSourceName("camera-left").driverInstanceId("driver-01")
            .driverControlChannel("aeron:ipc");
        results.next().streamId(10_001).producerId(0).epoch(10).layoutVersion(1).headerNslots(8)
            .headerSlotBytes(256).maxDims((short)8).dataSourceId(5).driverControlStreamId(1_000);
        results.payloadPoolsCount(0);
        results.tagsCount(0);
        results.headerRegionUri("").dataSourceName("").driverInstanceId("").driverControlChannel("");
        response.errorMessage("");
        add("DiscoveryResponse.two_results", response.limit());

        response.wrapAndApplyHeader(buffer, 0, discovery).requestId(2).status(DiscoveryStatus.ERROR);
        response.resultsCount(0);
        response.errorMessage("result limit exceeded");
        add("DiscoveryResponse.error", response.limit());
    }

    private void memory()
    {
        final ShmRegionSuperblockEncoder superblock = new ShmRegionSuperblockEncoder();
        superblock.wrap(buffer, 0)
            .magic(MAGIC).layoutVersion(1).epoch(9).streamId(10_000).regionType(RegionType.HEADER_RING)
            .poolId(0).nslots(64).slotBytes(256).strideBytes(0).pid(4_242).startTimestampNs(111)
            .activityTimestampNs(222);
        add("ShmRegionSuperblock.header_ring", superblock.limit());

        superblock.wrap(buffer, 0)
            .magic(MAGIC).layoutVersion(1).epoch(-2L).streamId(10_000).regionType(RegionType.PAYLOAD_POOL)
            .poolId(65_535).nslots(64).slotBytes(1_048_576).strideBytes(1_048_576).pid(4_242)
            .startTimestampNs(111).activityTimestampNs(222);
        add("ShmRegionSuperblock.pool", superblock.limit());

        slot("SlotHeader.row_major", 5, 307_200, MajorOrder.ROW, ProgressUnit.ROWS, 640,
            new int[]{ 480, 640 }, new int[]{ 640, 1 });
        slot("SlotHeader.column_major_inferred", 63, 0, MajorOrder.COLUMN, ProgressUnit.NONE, 0,
            new int[]{ 2, 3, 4, 5, 6, 7, 8, 9 }, new int[8]);
    }

    private void slot(
        final String name, final long seq, final long length, final MajorOrder order, final ProgressUnit unit,
        final long progressStride, final int[] dims, final int[] strides)
    {
        final UnsafeBuffer embedded = new UnsafeBuffer(new byte[192]);
        final TensorHeaderEncoder tensor = new TensorHeaderEncoder();
        tensor.wrapAndApplyHeader(embedded, 0, wire)
            .dtype(Dtype.UINT8).majorOrder(order).ndims((short)dims.length).padAlign((short)0)
            .progressUnit(unit).progressStrideBytes(progressStride);
        for (int i = 0; i < dims.length; i++)
        {
            tensor.dims(i, dims[i]).strides(i, strides[i]);
        }
        buffer.setMemory(0, 256, (byte)0);
        final SlotHeaderEncoder slot = new SlotHeaderEncoder();
        slot.wrap(buffer, 0)
            .seqCommit(seq << 1 | 1).valuesLenBytes(length).payloadSlot(seq & 63).poolId(1).payloadOffset(0)
            .timestampNs(999).metaVersion(1).putHeaderBytes(embedded, 0, 192);
        add(name, slot.limit());
    }
}
