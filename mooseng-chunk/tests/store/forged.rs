//! What clients wrote is in the redo log as it is: nothing in it is taken for a record.

use crate::common::{disk::CrashDisk, *};
use mooseng_core::{
    checksum::{crc32c, frame_crcs},
    ids::*,
    limits::FRAME_BYTES_MAX,
};

/// The filling of the first segment.
fn filling(disk: &CrashDisk) -> u64 {
    let Ok(file) = disk.mount().open("redo.0") else { return 0 };
    let mut id = [0; 8];
    file.read_at(8, &mut id).unwrap();
    u64::from_le_bytes(id)
}

#[tokio::test(start_paused = true)]
async fn what_a_client_wrote_is_not_taken_for_a_record_of_the_log() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    let victims = pattern(2, BLOCK);
    world.write(chunk(2, 1), &[1], vec![frame(2, 1, 0, victims.clone())]).await.unwrap();
    world.sync(chunk(2, 1), &[1], vec![]).await.unwrap();
    // A record of the third filling that has another block for it.
    let evil = vec![0x66; BLOCK];
    let crc = frame_crcs(ChunkId(2), Offset(0), &evil)[0];
    let mut record = 0x4f44_4552u32.to_le_bytes().to_vec();
    record.extend([0; 4]);
    for field in [3u64, 0, 1_000_000, 2, BLOCK as u64, 1, 0, 0] {
        record.extend(field.to_le_bytes());
    }
    record.extend(0u32.to_le_bytes());
    record.extend(crc.to_le_bytes());
    record.extend(&evil);
    let crc = crc32c(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    // Behind one record of one image in the third filling; here inside the first record of the first.
    let mut data = pattern(1, FRAME_BYTES_MAX);
    let place = 8192 + 4608 - (8192 + 72 + 16 + 8 * 256);
    data[place..place + record.len()].copy_from_slice(&record);
    let mut number = 0;
    let sizes = [FRAME_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX, 250 * BLOCK];
    for len in sizes.into_iter().chain(std::iter::repeat_n(BLOCK, 10)) {
        number += 1;
        world.write(chunk(1, 1), &[1], vec![frame(1, number, 0, data[..len].to_vec())]).await.unwrap();
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
        eprintln!("write {number} of {len}: filling {}", filling(&disk));
        if filling(&disk) == 3 {
            break;
        }
    }
    assert_eq!(filling(&disk), 3);
    drop(server);
    disk.power_fails();
    let _server = world.start(1, &disk).await;
    let _ = world.control(1, settle(chunk(2, 1), &[1])).await;
    assert!(world.read(chunk(2, 1), 1, 0, BLOCK as u64).await.unwrap() == victims, "another client's block");
}
